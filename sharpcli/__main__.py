"""`python -m sharpcli`, which is what torchrun starts."""

from sharpcli.cli.start import main

if __name__ == "__main__":
    main()
