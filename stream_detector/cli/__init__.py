"""The commands of `stream-detector`, one a file: `add_parser(subparsers)` and `run(args) -> exit status`."""
