"""``python -m ctxembed_cli``: the command line where a launcher such as torchrun wants a module."""

from .main import main

if __name__ == "__main__":
    main()
