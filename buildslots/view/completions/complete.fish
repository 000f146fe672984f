# Completion of slot-run and buildslots for fish, which looks for it by the name of each command:
#   buildslots completion fish | tee ~/.config/fish/completions/{slot-run,buildslots}.fish >/dev/null
# ("Where to put completions" in https://fishshell.com/docs/current/completions.html). `commandline -o` is deprecated
# since fish 4.0, but the -x that replaces it is not in 3.x.

# Print slot-run's operands before the cursor, one a line and quoted; fails where there is none.
function __slot_run_operands
    set -l words (commandline -opc)
    argparse --stop-nonopt @RUN_SPEC@ -- $words[2..] 2>/dev/null
    and set -q argv[1]
    and string escape -- $argv
end

# Complete what slot-run runs as if it stood alone.
function __slot_run_command
    complete --do-complete=(string join ' ' -- (__slot_run_operands) (commandline -ct))
end

# Whether one of the arguments is the command of buildslots, which stands before the cursor.
function __buildslots_is
    set -l words (commandline -opc)
    contains -- "$words[2]" $argv
end

# Print the pools, those in the value of --dir if there is one.
function __buildslots_pools
    set -l words (commandline -opc)
    argparse --ignore-unknown dir= -- $words[2..] 2>/dev/null
    and set -q _flag_dir
    and set -l dir --dir (string replace --regex '^~(?=/|$)' -- $HOME $_flag_dir[-1])
    # fish itself says that a command is missing, and not to 2>/dev/null.
    command --query buildslots
    and buildslots pools $dir 2>/dev/null
end

complete -c slot-run --no-files --arguments '(__slot_run_command)'
set -l own complete -c slot-run --condition 'not __slot_run_operands >/dev/null'
@RUN_OPTIONS@

complete -c buildslots --no-files
complete -c buildslots -s h -l help -d 'Print the help'
set -l command complete -c buildslots --condition '__buildslots_is ""'
@TOP_OPTIONS@
@COMMANDS@

function __buildslots_option
    complete -c buildslots --condition "__buildslots_is $argv[1]" $argv[2..]
end
@OPTIONS@
functions --erase __buildslots_option
