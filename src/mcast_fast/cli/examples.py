"""Examples of every verb, which its --help and its man page end with: command, and what it does.

A command fits 76 columns. A test has the options of each checked.
"""

EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "demo": (("mcast-fast demo", "Does multicast work on this machine, and how fast?"),),
    "receive": (
        ("mcast-fast receive 239.1.1.1%eth0:5000 -c 10", "What is on that group?"),
        ("mcast-fast receive 239.1.1.1:5000 -o none --sequence rtp", "A line each second, and what is missing."),
        ("mcast-fast receive 239.1.1.1:5000 -o raw --strip rtp > feed.ts", "A file that players play."),
        ("mcast-fast receive 239.1.1.1:5000 --json -d 10s | jq .length", "For other programs."),
    ),
    "send": (
        ("mcast-fast send 239.1.1.1%eth0:5000 hello", "One text."),
        ("mcast-fast send 239.1.1.1:5000 --size 1316 --rate 10Mbps -d 1min", "A stream for a minute."),
        ("mcast-fast send 239.1.1.1:5000 --file feed.ts --rtp --rate 4Mbps", "A transport stream in RTP."),
        ("mcast-fast send 239.1.1.1:5000 --size 64 --sequence -c 1000 --dscp EF", "For `check -f mcast-fast`."),
        ("mcast-fast send 239.1.1.1:5000 who --wait 2s", "A question, and its answers."),
    ),
    "record": (
        ("mcast-fast record 239.1.1.1%eth0:5000 -w feed.pcapng", "Until Ctrl-C."),
        ("mcast-fast record 239.1.1.1:5000 -w feed.pcapng -d 1h --fail-on-loss", "For an hour; 3 on loss."),
        ("mcast-fast record 239.1.1.1:5000 -w f.pcapng -b duration:60 -b files:24", "A file a minute, 24 kept."),
        ("mcast-fast record --plan plan.toml --host alpha", "One host's share of a plan."),
    ),
    "replay": (
        ("mcast-fast replay feed.pcapng --to 239.9.9.9%lo", "With the recorded times."),
        ("mcast-fast replay feed.pcapng --to 239.9.9.9%lo --speed 2x --loop 0", "Twice as fast, for ever."),
        ("mcast-fast replay feed.pcapng --map 239.1.1.1=239.9.9.9:6000", "One group to another."),
    ),
    "check": (
        ("mcast-fast check 239.1.1.1%eth0:5000 -f rtp", "What did the network lose?"),
        ("mcast-fast check feed.pcapng -f moldudp64 --json", "Of a file."),
    ),
    "arbitrate": (
        ("mcast-fast arbitrate 239.1.1.1:5000 239.2.1.1:5000 -f rtp -d 1min", "Compare two legs."),
        ("mcast-fast arbitrate a.pcapng b.pcapng -f rtp -w feed.pcapng", "One feed of two recordings."),
    ),
    "info": (
        ("mcast-fast info feed.pcapng", "Who sent what, at which rate, with which gaps."),
        ("mcast-fast info feed.pcapng 239.1.1.1 --sequence rtp", "One group, and what is missing."),
    ),
    "convert": (
        ("mcast-fast convert feed.pcapng feed.parquet", "For pandas, polars and DuckDB."),
        ("mcast-fast convert feed.pcapng.zst - --to csv -g 239.1.1.1", "One group, to standard output."),
    ),
    "merge": (("mcast-fast merge a.pcapng b.pcapng -w both.pcapng", "Two recordings, in the order of time."),),
    "repair": (("mcast-fast repair feed.pcapng -o whole.pcapng", "What can be read, into another file."),),
    "interfaces": (("mcast-fast interfaces", "Where groups can be joined."),),
    "doctor": (("mcast-fast doctor 239.1.1.1%eth0:5000", "Why does nothing arrive?"),),
    "probe": (("mcast-fast probe 239.9.9.9:5009", "On each host: who hears whom?"),),
    "top": (
        ("mcast-fast top 239.1.1.1%eth0:5000+100", "Which of 100 streams come, at which rates."),
        ("mcast-fast top 239.1.1.1:5000 --json -d 10s | jq .streams", "For programs."),
    ),
    "report": (
        ("mcast-fast report feed.pcapng", "A page, report.html, of a recording."),
        ("mcast-fast report 239.1.1.1%eth0:5000 --for 60s -o feed.html", "Of a minute of a group."),
        ("mcast-fast report a.pcapng b.pcapng --legs -f rtp --svg legs.svg", "Two legs side by side."),
    ),
    "bench": (
        ("mcast-fast bench", "What this host holds, over its loopback."),
        ("mcast-fast bench --size 64 --size 1316 --for 20s --json", "Small and usual packets, for programs."),
        ("mcast-fast bench --listen 239.9.9.9%eth0:5009", "Between two hosts: count on this one,"),
        ("mcast-fast bench --to 10.0.0.2 239.9.9.9%eth0:5009", "and send on this one."),
    ),
    "plan": (
        ("mcast-fast plan check plan.toml", "Is it a plan, and can every host record its share?"),
        ("mcast-fast plan deal plan.toml --down alpha", "Who records what when alpha has failed?"),
    ),
    "manifest": (
        ("mcast-fast manifest verify /var/lib/mcast-fast", "Are all files there, and as they were?"),
        ("mcast-fast manifest make feed.pcapng --host alpha -f rtp", "Of a file that has none."),
        ("mcast-fast manifest index /var/lib/mcast-fast -w files.parquet", "For DuckDB, or open()."),
    ),
    "help": (("mcast-fast help receive", "As `mcast-fast receive --help`."),),
    "version": (("mcast-fast version --json", "Version, backend and features."),),
    "completion": (
        ('eval "$(mcast-fast completion bash)"', "In ~/.bashrc; zsh likewise, in ~/.zshrc."),
        ("mcast-fast completion fish > ~/.config/fish/completions/mcast-fast.fish", "For fish."),
    ),
    "man": (
        ("mcast-fast man receive | man -l -", "Read one."),
        ("mcast-fast man --directory ~/.local/share/man/man1", "Install all: man mcast-fast-receive."),
    ),
}
