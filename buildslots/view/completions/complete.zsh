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
@RUN_OPTIONS@ \
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
  local -a line commands
  local -A opt_args
  commands=(
@COMMANDS@
  )

  _arguments -C -s @TOP_OPTIONS@ '1: :->command' '*:: :->argument' && return
  case $state in
    command) _describe -t commands command commands ;;
    argument)
      case $line[1] in
@CASES@
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
