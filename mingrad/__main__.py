"""``python -m mingrad``: the demo; and ``bench``, ``draw`` and ``info``, each a file of ``_commands``."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

COMMANDS = {
    "bench": "measure mingrad on this machine, beside what else is installed",
    "draw": "draw the graph of an expression, with its gradients",
    "info": "say what is installed: version, compiler, SIMD level, tape, extras",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command = arguments[0] if arguments and arguments[0] in COMMANDS else None
    if command is None:
        listed = "\n".join([f"  {name:6} {text}" for name, text in COMMANDS.items()])
        parser = argparse.ArgumentParser(
            prog="python -m mingrad",
            usage="%(prog)s [-h] [--steps STEPS] [--seed SEED] [--no-color]\n       %(prog)s {bench,draw,info} ...",
            description="Train a 2-16-16-1 network on two half-moons of points and draw the result. Or, with -h of their own:\n"
            + listed,
            epilog="The model is in mingrad/examples/moons.py. NO_COLOR in the environment is obeyed.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    else:
        parser = argparse.ArgumentParser(prog=f"python -m mingrad {command}")
        arguments = arguments[1:]
    module = import_module(f"mingrad._commands.{command or 'demo'}")
    module.add_arguments(parser)
    parse = parser.parse_args if "--" in arguments else parser.parse_intermixed_args  # options anywhere; that one knows no "--"
    status: int = module.run(parser, parse(arguments))
    return status


def guarded() -> int:
    """main(), and what happens to its output where nobody reads it."""
    try:
        try:
            return main()
        finally:  # after --help too, which ends by SystemExit
            sys.stdout.flush()  # here: at Python's own end a reader that has left would be an error
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has left; what is unwritten goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(guarded())
