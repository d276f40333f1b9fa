"""One file is one algorithm. The import name is ``fedkd.strategies``; in the repository the files stand at the top."""

if __name__ != "fedkd.strategies":
    raise ImportError("import this package as fedkd.strategies, not as a top-level package")
