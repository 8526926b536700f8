"""The subcommands of ``python -m mingrad``, a file each, so that each imports only what it needs.

A file has add_arguments(parser) and run(parser, options), which returns the exit status: 0; 1 where it could not be done; 2
(by parser.error) for arguments that are wrong. __main__.py chooses among them.
"""
