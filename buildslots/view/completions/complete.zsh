#compdef slot-run buildslots
# Completion of slot-run and buildslots for zsh. In ~/.zshrc, after compinit: eval "$(buildslots completion zsh)"
# Or, without a Python at each start of zsh, as a file _slot-run in a directory of $fpath.

_slot-run() {
  case $service in
    slot-run) _slot-run_run ;;
    buildslots) _slot-run_buildslots ;;
  esac
}

_slot-run_run() {
  local -A opt_args
  # -A and -S: the options end at the first operand and at "--"; from there on the command's own completion counts.
  _arguments -s -S -A '-?*' : \
    '(-n --slots)'{-n+,--slots=}'[how many may run at once]:number of slots: ' \
    '(-p --pool)'{-p+,--pool=}'[the pool to take the slot from]:pool:_slot-run_pools' \
    '(-t --timeout)'{-t+,--timeout=}'[how long to wait]:duration:(0 2m 10m 1h none)' \
    '--on-timeout=[what to do then]:what to do:((run\:"run without a slot" paced\:"one after the other" fail\:"exit 75"))' \
    '(-w --weight)'{-w+,--weight=}'[how many slots it needs]:number of slots: ' \
    '--min-free-memory=[wait for so much memory]:bytes:(1G 2G 4G)' \
    '--max-load=[wait for such a load average]:load average: ' \
    '--max-pressure=[wait for such pressure]:percentages, as io=40,memory=10: ' \
    '--dir=[directory of the default pool]:directory:_directories' \
    '(-q --quiet)'{-q,--quiet}'[say nothing but warnings]' \
    '(- : *)--version[print the version]' \
    '(- : *)'{-h,--help}'[print the help]' \
    '1: : _command_names -e' \
    '*:: :_slot-run_command'
}

# Complete what slot-run runs as if it stood alone.
_slot-run_command() {
  # _arguments leaves a "--" that is the very first word with the operands (seen in zsh 5.9, `sudo --` too).
  if [[ $words[1] == -- ]]; then
    shift words
    ((CURRENT--))
  fi
  _normal
}

_slot-run_buildslots() {
  local curcontext=$curcontext state state_descr
  local -a line commands of_pool in_dir of_past as_json help
  local -A opt_args
  commands=(
    'status:who holds the slots and who waits'
    'history:how long builds waited and ran'
    'trace:the journal as trace events'
    'report:the same timeline as a web page'
    'doctor:try out what the pool relies on'
    'release:end what keeps a slot although its build is gone'
    'pools:the names of the pools'
    'completion:the script that makes a shell complete'
  )
  help=('(- : *)'{-h,--help}'[print the help]')
  in_dir=('--dir=[directory of the default pool]:directory:_directories')
  of_pool=($in_dir '(-p --pool)'{-p+,--pool=}'[the pool]:pool:_slot-run_pools')
  of_past=(
    '(-p --pool)'{-p+,--pool=}'[only this pool]:pool:_slot-run_pools'
    '--since=[how far back]:duration:(1h 1d 7d none)'
  )
  as_json=('--json[for programs]')

  _arguments -C -s $help '(- : *)--version[print the version]' '1: :->command' '*:: :->argument' && return
  case $state in
    command) _describe -t commands command commands ;;
    argument)
      case $line[1] in
        status)
          _arguments -s $help $of_pool $as_json \
            '(-a --all)'{-a,--all}'[all pools in the directory]' \
            '(-w --watch)'{-w,--watch}'[keep it up to date]' \
            '--interval=[between two updates]:duration:(1s 5s 1m)'
          ;;
        history) _arguments -s $help $of_past $as_json ;;
        trace | report) _arguments -s $help $of_past '(-o --output)'{-o+,--output=}'[where to write it]:file:_files' ;;
        doctor) _arguments -s $help $of_pool $as_json ;;
        release)
          _arguments -s $help $of_pool '(-y --yes)'{-y,--yes}'[do not ask]' '*:number of a slot: '
          ;;
        pools) _arguments -s $help $in_dir ;;
        completion) _arguments -s $help '1:shell:(bash zsh fish)' ;;
      esac
      ;;
  esac
}

_slot-run_pools() {
  local dir=${(Q)opt_args[--dir]}
  local -a names expl
  names=(${(f)"$(buildslots pools ${dir:+--dir} ${dir/#\~\//$HOME/} 2>/dev/null)"})
  _wanted pools expl pool compadd -a names
}

# As a file of $fpath this text is the function itself, and being called; elsewhere there is one to be registered.
if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
  _slot-run "$@"
else
  compdef _slot-run slot-run buildslots
fi
