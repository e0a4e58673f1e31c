"""``python -m phi3quant``."""

from phi3quant.cli.main import main

if __name__ == "__main__":
    main()
