# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_careportals_sidecar_global_optspecs
    string join \n config= listen= upstream= control-socket= log= log-format= workers= h/help V/version
end

function __fish_careportals_sidecar_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_careportals_sidecar_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_careportals_sidecar_using_subcommand
    set -l cmd (__fish_careportals_sidecar_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -l listen -d 'Addresses of the API `default`, separated by commas, as `127.0.0.1:2273` or `unix:/run/x.sock`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -l upstream -d 'Base URL of the API `default` at CarePortals' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -l log -d 'Log filter, as `info` or `careportals_sidecar=debug`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -l log-format -d '`auto`, `text` or `json`' -r -f -a "auto\t''
text\t''
json\t''"
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -l workers -d 'Worker threads' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -s V -l version -d 'Print version'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "run" -d 'Run the daemon (the default)'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "exec" -d 'Run a program with the sidecar around it'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "check" -d 'Validate the configuration and print every fault and warning; binds nothing'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "config" -d 'Show the effective configuration, secrets redacted, and where each value comes from'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "status" -d 'Show the state of every account and API of the running daemon'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "rules" -d 'Print the `allow` list for what the running daemon has seen'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "login" -d 'Have the running daemon log in, and wait for the outcome'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "logout" -d 'Have the running daemon forget its tokens'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "reload" -d 'Have the running daemon read its settings again, and wait for the outcome'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "shutdown" -d 'Have the running daemon finish what is in flight and end'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "healthcheck" -d 'Exit 0 when the daemon is healthy, 1 when it is not'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "completions" -d 'Print the completions of a shell, to be read by it'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "help" -d 'Print this help, or that of a command'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_needs_command" -f -a "version" -d 'Print the version, the commit and the target that it was built from and for, and the profile'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand run" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand run" -l listen -d 'Addresses of the API `default`, separated by commas, as `127.0.0.1:2273` or `unix:/run/x.sock`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand run" -l upstream -d 'Base URL of the API `default` at CarePortals' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand run" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand run" -l log -d 'Log filter, as `info` or `careportals_sidecar=debug`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand run" -l log-format -d '`auto`, `text` or `json`' -r -f -a "auto\t''
text\t''
json\t''"
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand run" -l workers -d 'Worker threads' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -l wait -d 'How long a token may take; 0s starts CMD at once' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -l listen -d 'Addresses of the API `default`, separated by commas, as `127.0.0.1:2273` or `unix:/run/x.sock`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -l upstream -d 'Base URL of the API `default` at CarePortals' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -l log -d 'Log filter, as `info` or `careportals_sidecar=debug`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -l log-format -d '`auto`, `text` or `json`' -r -f -a "auto\t''
text\t''
json\t''"
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -l workers -d 'Worker threads' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand exec" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -l explain -d 'Say which API and which rule decide about a request, and what upstream would receive' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -l diff -d 'List the requests that the rules let through and those of this settings file did not (`+`), and the reverse (`-`)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -l api -d 'With --explain: only at the addresses of this API' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -l listen -d 'Addresses of the API `default`, separated by commas, as `127.0.0.1:2273` or `unix:/run/x.sock`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -l upstream -d 'Base URL of the API `default` at CarePortals' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -l online -d 'Also resolve, connect, verify TLS, log in and compare clocks'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -l strict -d 'Exit 1 when there are warnings'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand config" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand config" -l listen -d 'Addresses of the API `default`, separated by commas, as `127.0.0.1:2273` or `unix:/run/x.sock`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand config" -l upstream -d 'Base URL of the API `default` at CarePortals' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand config" -l json-schema -d 'Print the JSON Schema of the settings file instead'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand config" -s h -l help -d 'Print help'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand status" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand status" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand status" -l json -d 'Print the daemon\'s document as it is, for programs (docs/control.md)'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand status" -l watch -d 'Show it again every second, until Ctrl-C'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand rules" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand rules" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand rules" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand login" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand login" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand login" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand logout" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand logout" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand logout" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand reload" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand reload" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand shutdown" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand shutdown" -l control-socket -d 'Unix socket by which `status` and its siblings reach the daemon, or `off`' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand shutdown" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand healthcheck" -l wait -d 'Ask again for as long as this, until the answer is yes' -r
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand healthcheck" -l config -d 'Settings file (else `CAREPORTALS_CONFIG`, else /etc/careportals-sidecar/config.toml when present)' -r -F
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand healthcheck" -l live -d 'Do the event loops turn? Never depends on CarePortals (the default)'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand healthcheck" -l started -d 'Is the configuration valid, and are all listeners bound?'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand healthcheck" -l ready -d 'Does every account hold a valid token?'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand healthcheck" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand completions" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand help" -s h -l help -d 'Print help'
complete -c careportals-sidecar -n "__fish_careportals_sidecar_using_subcommand version" -s h -l help -d 'Print help'
