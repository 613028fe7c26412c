# Shortcuts for `.ci/run`, which holds the commands. `just --list` shows them, `.ci/run --list` shows every step.

# Every step of a merge
ci:
    .ci/run

# Installs the program that was built last, man pages and completions below PREFIX (/usr/local); --remove removes them
install *ARGS:
    deploy/install {{ ARGS }}

# Format all code
fmt:
    cargo fmt --all

# Clippy, with and without default features
lint:
    .ci/run lint

# All tests, or those that the arguments choose
test *ARGS:
    .ci/run test {{ ARGS }}

# The house rules
tidy:
    .ci/run tidy

# The crates' documentation
doc:
    .ci/run doc

# The documentation as a site, in target/book/html
book:
    .ci/run book

# Licences, duplicates, sources
deny:
    .ci/run deny

# Known weaknesses of dependencies
advisories:
    .ci/run advisories

# Each fuzz target, ten seconds or as many as are given
fuzz *SECONDS:
    .ci/run fuzz {{ SECONDS }}

# A build with the oldest Rust that Cargo.toml allows
msrv:
    .ci/run msrv

# Line coverage
coverage:
    .ci/run coverage

# Whether the unit tests see changes of what differs from a commit (origin/main)
mutants *ARGS:
    .ci/run mutants {{ ARGS }}

# The whole daemon in simulation: 10,000 seeds, or as many as are given
simulation *SEEDS:
    .ci/run simulation {{ SEEDS }}
