"""The sizes of the issue's bars, bytes of fp32."""

MEDIUM = 25 << 20  # a bucket of DDP: it and its payload lie in the L2 cache of a large GPU
LARGE = 400 << 20  # far larger than any L2: what is measured is memory
DEFAULT = "1m,25m,400m"
TINY = "16k"  # on the simulator
