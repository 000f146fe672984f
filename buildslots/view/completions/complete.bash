# Completion of slot-run and buildslots for bash. In ~/.bashrc: eval "$(buildslots completion bash)"
#
# It needs no bash-completion, and runs in the bash 3.2 of macOS. That one has no compopt, hence the 2>/dev/null
# behind it: directories are completed without their slash there, and names with blanks without quotes.

_slot_run() {
  local values='@RUN_VALUES@'
  local flags=@RUN_FLAGS@ letters=@RUN_LETTERS@ operand= option= prefix= value= dir=
  COMPREPLY=()
  _buildslots_read "$2"
  if [[ $operand ]]; then
    _slot_run_command "$2"
  elif [[ $option ]]; then
    _buildslots_value
  else
    _buildslots_offer -W '@RUN_OPTIONS@'
  fi
}

# The command that slot-run runs: a completion of its own, which it has where bash-completion can be asked.
_slot_run_command() {
  local offset
  # The name in bash-completion 2.12 and later, the one before (its CHANGELOG.md), each with its place in COMP_WORDS.
  for offset in _comp_command_offset _command_offset; do
    if declare -F "$offset" >/dev/null; then
      "$offset" "$operand"
      return
    fi
  done
  value=$1
  if ((operand < COMP_CWORD)) || [[ $value == */* ]]; then
    compopt -o filenames 2>/dev/null
  fi
  if ((operand < COMP_CWORD)); then
    _buildslots_offer -f
  else
    _buildslots_offer -c
  fi
}

_buildslots() {
  local values='@VALUES@' flags=@FLAGS@ letters=@LETTERS@
  local operand= option= prefix= value= dir= command= words=
  COMPREPLY=()
  _buildslots_read "$2"
  ((${operand:-COMP_CWORD} < COMP_CWORD)) && command=${COMP_WORDS[operand]}
  case $command in
@OPTIONS@
  esac
  if [[ $option ]]; then
    _buildslots_value
  elif [[ $value == -* ]]; then
    _buildslots_offer -W "$words"
  elif [[ ! $command ]]; then
    _buildslots_offer -W '@COMMANDS@'
  else
    case $command in
@OPERANDS@
    esac
  fi
}

# Read the command line up to the cursor, as the parsers do; $1 is the word to complete, as bash passes it. The caller's
# variables tell which options take a value (values: long ones, letters: short ones) and which letters take none
# (flags), and are set:
#   operand  the place of the first operand, if there is one
#   option   the option that the cursor is at the value of, if it is
#   value    what there is of that value, or of the word
#   prefix   what stands before the value in the same word
#   dir      the value of --dir
_buildslots_read() {
  local i word
  # In a variable: bash 3.2 takes no parenthesis of a regular expression in the line itself.
  local cluster="^-[$flags]*([$letters])"
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ $option ]]; then
      # Where "=" is one of COMP_WORDBREAKS, --pool=link is three words.
      [[ $word == '=' && ${COMP_WORDS[i - 1]} == --* ]] && continue
      [[ $option == --dir ]] && dir=$word
      option=
    elif [[ $word == '=' ]]; then
      ((i++)) # within a value: --max-pressure io=40
    elif [[ $word == -- ]]; then
      operand=${operand:-$((i + 1))}
      break
    elif [[ $word == --dir=* ]]; then
      dir=${word#--dir=}
    elif [[ $word == --* ]]; then
      # A value may be left out of some: then what follows is none, unless it is the "=".
      [[ " $values " == *" $word "* || ${COMP_WORDS[i + 1]} == '=' ]] && option=$word
    elif [[ $word =~ $cluster && $word == "${BASH_REMATCH[0]}" ]]; then
      option=-${BASH_REMATCH[1]}
    elif [[ $word != -?* ]]; then
      operand=${operand:-$i}
    fi
  done
  case $dir in
    '~' | '~/'*) dir=$HOME${dir#'~'} ;;
  esac

  value=$1
  word=${COMP_WORDS[COMP_CWORD]}
  if [[ $option ]]; then
    # The "=" of --pool= is a word, and nothing of the value.
    [[ $value == '=' ]] && value=
  elif [[ $word == --*=* ]]; then
    # One word, as bash 3.2 passes it, or as it is everywhere without "=" in COMP_WORDBREAKS.
    option=${word%%=*}
    value=${word#*=}
    # What bash replaces starts behind the "=" in the first case, in front of the option in the other.
    [[ $1 == -* ]] && prefix=$option=
  elif [[ $word =~ $cluster && $word != "${BASH_REMATCH[0]}" ]]; then
    option=-${BASH_REMATCH[1]}
    prefix=${BASH_REMATCH[0]}
    value=${word#"$prefix"}
  elif [[ $word != -* ]]; then
    operand=${operand:-$COMP_CWORD}
  fi
}

# Offer values for the option.
_buildslots_value() {
  case $option in
    @POOLS@) _buildslots_pools ;;
@WORDS@
    @DIRECTORIES@)
      compopt -o filenames 2>/dev/null
      _buildslots_offer -d
      ;;
    @FILES@) _buildslots_files ;;
  esac
}

_buildslots_pools() {
  _buildslots_offer -W "$(buildslots pools ${dir:+--dir "$dir"} 2>/dev/null)"
}

_buildslots_files() {
  compopt -o filenames 2>/dev/null
  _buildslots_offer -f
}

# Set COMPREPLY to what compgen says with these options to what there is of the value.
_buildslots_offer() {
  local IFS=$' \t\n' match
  # Line by line: an array assigned from $(compgen) would split and glob the names of files.
  while IFS= read -r match; do
    COMPREPLY+=("$prefix$match")
  done < <(compgen "$@" -- "$value")
}

complete -F _slot_run slot-run
complete -F _buildslots buildslots
