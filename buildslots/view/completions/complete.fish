# Completion of slot-run and buildslots for fish, which looks for it by the name of each command:
#   buildslots completion fish | tee ~/.config/fish/completions/{slot-run,buildslots}.fish >/dev/null
# ("Where to put completions" in https://fishshell.com/docs/current/completions.html). `commandline -o` is deprecated
# since fish 4.0, but the -x that replaces it is not in 3.x.

# Print slot-run's operands before the cursor, one a line and quoted; fails where there is none.
function __slot_run_operands
    set -l words (commandline -opc)
    argparse --stop-nonopt n/slots= p/pool= t/timeout= on-timeout= w/weight= min-free-memory= max-load= \
        max-pressure= dir= q/quiet version h/help -- $words[2..] 2>/dev/null
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
$own -s n -l slots --exclusive -d 'How many may run at once'
$own -s p -l pool --exclusive -a '(__buildslots_pools)' -d 'The pool to take the slot from'
$own -s t -l timeout --exclusive -a '0 2m 10m 1h none' -d 'How long to wait'
$own -l on-timeout --exclusive -a 'run\t"Without a slot" paced\t"One after the other" fail\t"Exit 75"' \
    -d 'What to do then'
$own -s w -l weight --exclusive -d 'How many slots it needs'
$own -l min-free-memory --exclusive -a '1G 2G 4G' -d 'Wait for so much memory'
$own -l max-load --exclusive -d 'Wait for such a load average'
$own -l max-pressure --exclusive -d 'Wait for such pressure: io=40,memory=10'
$own -l dir --exclusive -a '(__fish_complete_directories (commandline -ct))' -d 'Directory of the default pool'
$own -s q -l quiet -d 'Say nothing but warnings'
$own -l version -d 'Print the version'
$own -s h -l help -d 'Print the help'

complete -c buildslots --no-files
complete -c buildslots -s h -l help -d 'Print the help'
set -l command complete -c buildslots --condition '__buildslots_is ""'
$command -l version -d 'Print the version'
$command -a status -d 'Who holds the slots and who waits'
$command -a history -d 'How long builds waited and ran'
$command -a trace -d 'The journal as trace events'
$command -a report -d 'The same timeline as a web page'
$command -a doctor -d 'Try out what the pool relies on'
$command -a release -d 'End what keeps a slot although its build is gone'
$command -a pools -d 'The names of the pools'
$command -a completion -d 'The script that makes a shell complete'

function __buildslots_option
    complete -c buildslots --condition "__buildslots_is $argv[1]" $argv[2..]
end
__buildslots_option 'status doctor release pools' -l dir --exclusive \
    -a '(__fish_complete_directories (commandline -ct))' -d 'Directory of the default pool'
__buildslots_option 'status history trace report doctor release' -s p -l pool --exclusive \
    -a '(__buildslots_pools)' -d 'The pool'
__buildslots_option 'status history doctor' -l json -d 'For programs'
__buildslots_option status -s a -l all -d 'All pools in the directory'
__buildslots_option status -s w -l watch -d 'Keep it up to date'
__buildslots_option status -l interval --exclusive -a '1s 5s 1m' -d 'Between two updates'
__buildslots_option 'history trace report' -l since --exclusive -a '1h 1d 7d none' -d 'How far back'
__buildslots_option 'trace report' -s o -l output --require-parameter --force-files -d 'Where to write it'
__buildslots_option release -s y -l yes -d 'Do not ask'
__buildslots_option completion -a 'bash zsh fish'
functions --erase __buildslots_option
