// The only file that carries doctest's implementation; a test file includes doctest.h alone.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
