"""`python -m fireassay`, and what torchrun starts."""

from fireassay.cli import main

if __name__ == "__main__":
    main()
