#!/usr/bin/env bash
# Makes doctest/doctest.h available to the C++ tests: already there, or through apt-get (as root or with sudo).
set -euo pipefail

have() { echo '#include <doctest/doctest.h>' | "${CXX:-c++}" -x c++ -fsyntax-only - 2> /dev/null; }

have && exit 0
if command -v apt-get > /dev/null; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo -n)
  echo "installing doctest-dev, which the C++ tests need"
  "${as_root[@]}" apt-get install -y -q doctest-dev > /dev/null 2>&1 ||
    { "${as_root[@]}" apt-get update -q > /dev/null && "${as_root[@]}" apt-get install -y -q doctest-dev > /dev/null; } ||
    true
fi
have && exit 0
echo "The C++ tests need doctest/doctest.h, and it could not be installed from here." >&2
echo "Install the package doctest-dev (Debian, Ubuntu) or doctest (Fedora, Homebrew), then try again." >&2
exit 1
