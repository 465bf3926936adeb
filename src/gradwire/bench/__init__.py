"""The installed command `gradwire`: benchmarks of collectives and codecs, and a check of the installation."""
