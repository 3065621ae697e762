"""The command ``ctxembed``: a group that loads a command only when it is asked for, and the one error handler."""

from __future__ import annotations

import importlib
import keyword
import sys

import click

from ctxembed import __version__
from ctxembed.errors import CtxEmbedError
from ctxembed.runtime import disk_full, is_disk_full, wait_briefly

COMMANDS = {
    "demo": "demo",
    "tokenizer": "tokenizer",
    "train": "train",
    "embed": "embed",
    "index": "index",
    "search": "search",
    "compare": "compare",
    "neighbours": "neighbours",
    "senses": "senses",
    "shift": "shift",
    "attend": "attend",
    "reconstruct": "reconstruct",
    "bench": "bench",
    "import": "importing",
    "export": "static",
    "info": "info",
}
"""Each command and the file of this folder that holds it."""

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are looked up."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of a user's work, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the file of a command and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name]}", package=__package__)
        name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
        command: click.Command = getattr(module, name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ctxembed")
def ctxembed() -> None:
    """Embed text, search it by meaning, and see how a word's meaning shifts with its context.

    Results go to stdout, everything else to stderr. Nothing is sent anywhere, and nothing is downloaded
    but what `import --download` names.

    \b
    Begin with:   ctxembed demo
    Completion:   eval "$(_CTXEMBED_COMPLETE=bash_source ctxembed)"    (or zsh_source, fish_source)
    """


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and an exit code, never a traceback."""
    wait_briefly()
    try:
        ctxembed.main(prog_name="ctxembed", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):  # click makes the one of the other while a command runs
        click.echo("interrupted: --resume continues what can be continued", err=True)
        sys.exit(INTERRUPTED)
    except CtxEmbedError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except UnicodeEncodeError as error:
        character = ascii(error.object[error.start : error.end])
        click.echo(f"error: {character} cannot be printed as {error.encoding}: use UTF-8, in and out", err=True)
        sys.exit(1)
    except OSError as error:
        if is_disk_full(error):  # stdout, or a file that is not written through ``runtime.atomic_path``
            error = disk_full(error.filename or "the output", error)
        click.echo(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
