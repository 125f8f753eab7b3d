"""Exit codes: one table for all verbs, which `mcast-fast --help`, the man pages and docs/command-line.md show."""

OK, ERROR, USAGE, LOSS, NOTHING_CAME, INTERRUPTED = 0, 1, 2, 3, 4, 130

EXIT_CODES = {
    OK: "it did what was requested; receive and record also after Ctrl-C",
    ERROR: "an error, or doctor, probe or demo found a problem",
    USAGE: "a usage error: an option, a group or an interface that cannot be",
    LOSS: "packets are missing: of a checked feed, or with --fail-on-loss",
    NOTHING_CAME: "nothing came, or a file holds nothing of the groups",
    INTERRUPTED: "send, replay and bench: Ctrl-C, after the report (128 + SIGINT)",
}
