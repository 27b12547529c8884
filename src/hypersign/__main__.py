"""`python -m hypersign`: what `torchrun -m hypersign train ...` starts."""

from hypersign.cli import main

if __name__ == "__main__":
    main()
