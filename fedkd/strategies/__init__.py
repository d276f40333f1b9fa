"""One file is one algorithm, in strategies/ at the top of the repository."""

# In a plain checkout and in an unpacked Flower app the files stand beside the package; installed, they stand here.
__path__ = [str(__import__("pathlib").Path(__file__).parents[2] / "strategies")]
