"""`python -m podar`: the command line where the script is not on the path."""

from podar.cli import main

if __name__ == "__main__":
    main()
