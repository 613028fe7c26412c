# What a merge needs, and its parts. `just ci` is what runs elsewhere, nothing more.

ci:
    .ci/run

fmt:
    cargo fmt --all

lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo clippy --workspace --all-targets --locked --no-default-features -- -D warnings

test *ARGS:
    cargo test --locked {{ ARGS }}

tidy:
    cargo test --locked --test tidy

doc:
    RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps --locked

deny:
    cargo deny --offline check licenses bans sources

# Ten seconds of each fuzz target; see fuzz/README.md.
fuzz-smoke *SECONDS:
    fuzz/smoke {{ SECONDS }}
