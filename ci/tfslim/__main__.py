"""`python -m tfslim`: the same as the console script."""

from tfslim.cli import main

if __name__ == "__main__":
    main()
