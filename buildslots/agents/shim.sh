#!/bin/sh
# buildslots shim 1. `buildslots setup shell` wrote this, and `buildslots setup shell --uninstall` removes it.
#
# It stands under the names of programs that build, first on PATH, and becomes slot-run with the real program;
# or the real program at once: below a slot, for what is no build, and where slot-run is missing. It reads
# builtins only, as a call below a slot may cost 3 ms. Its variables have names that nobody else has: what
# comes from the environment goes on in it.

_bs_name=${0##*/}
case $0 in
*/*) _bs_own=${0%/*} ;;
*) _bs_own=. ;;
esac

# The binary that the program was when this was written: it is no shim, and need not be read to see that.
_bs_known=
case $_bs_name in
@KNOWN@
esac

# Set _bs_found to the absolute path of $1 on PATH, or to nothing, and _bs_line to its first line if it is a
# script. Shims are passed over, wherever they lie and however old they are: their first two lines tell.
# Where $2, which this process has become before, is among the candidates, the next one after it is taken:
# wrappers of others look for the next one on PATH as well, and each would become the other for ever.
_bs_find() {
    _bs_found='' _bs_line='' _bs_first='' _bs_first_line='' _bs_seek=$2 _bs_rest=${PATH-}:
    while [ -n "$_bs_rest" ]; do
        _bs_at=${_bs_rest%%:*}
        _bs_rest=${_bs_rest#*:}
        if [ "$_bs_at" = "$_bs_own" ]; then continue; fi
        case $_bs_at in
        /*) _bs_at=${_bs_at%/}/$1 ;;
        *) _bs_at=${PWD%/}/${_bs_at:-.}/$1 ;;
        esac
        if [ ! -f "$_bs_at" ] || [ ! -x "$_bs_at" ]; then continue; fi
        _bs_line=
        if [ "$_bs_at" != "$_bs_known" ] && [ -r "$_bs_at" ]; then
            _bs_second=
            {
                IFS= read -r _bs_line || :
                case $_bs_line in
                '#!'*) IFS= read -r _bs_second || : ;;
                *) _bs_line= ;;
                esac
            } <"$_bs_at"
            case $_bs_second in
            '# buildslots shim '*) continue ;;
            esac
        fi
        if [ -z "$_bs_seek" ]; then
            _bs_found=$_bs_at
            return
        fi
        if [ "$_bs_at" = "$_bs_seek" ]; then
            _bs_seek='' _bs_first=
        elif [ -z "$_bs_first" ]; then
            _bs_first=$_bs_at _bs_first_line=$_bs_line
        fi
    done
    _bs_found=$_bs_first _bs_line=$_bs_first_line
}

# Whether a mark N:NONCE in BUILD_SLOTS_HELD is that of a slot whose command runs: the record of slot N has the
# nonce, and the process that it calls its child lives; or its own, while it calls the child "?", which it is
# about to start. No to all that is not certain: slot-run looks closer.
# In a pool of several users (setgid) a record may be anybody's text, of any length.
_bs_is_live() {
    case ${BUILD_SLOTS_DIR-} in
    /*) _bs_base=$BUILD_SLOTS_DIR ;;
    *)
@BASE@
        ;;
    esac
    _bs_marks=$BUILD_SLOTS_HELD _bs_most=64
    while [ -n "$_bs_marks" ] && [ "$_bs_most" -gt 0 ]; do
        _bs_most=$((_bs_most - 1))
        _bs_mark=${_bs_marks##*,}
        case $_bs_marks in
        *,*) _bs_marks=${_bs_marks%,*} ;;
        *) _bs_marks= ;;
        esac
        _bs_number=${_bs_mark%%:*}
        case $_bs_number in
        '' | *[!0-9]* | ??????????*) continue ;;
        esac
        for _bs_pool in "$_bs_base" "$_bs_base"/pools/*; do
            _bs_at=$_bs_pool/holders/slot-$_bs_number
            if [ ! -f "$_bs_at" ] || [ ! -r "$_bs_at" ]; then continue; fi
            if [ -O "$_bs_pool" ] && [ ! -g "$_bs_pool" ] && [ -O "$_bs_at" ]; then :; else continue; fi
            _bs_child='' _bs_pid='' _bs_start=''
            while IFS= read -r _bs_line; do
                case $_bs_line in
                'child '*) _bs_child=${_bs_line#child } ;;
                'pid '*) _bs_pid=${_bs_line#pid } ;;
                'start '*) _bs_start=${_bs_line#start } ;;
                "nonce ${_bs_mark#*:}")
                    if [ "$_bs_child" = '?' ]; then _bs_child="$_bs_pid $_bs_start"; fi
                    if _bs_runs "${_bs_child%% *}" "${_bs_child#* }"; then return 0; fi
                    break
                    ;;
                'nonce '* | 'arg '* | end) break ;;
                esac
            done <"$_bs_at"
        done
    done
    return 1
}

# Whether the process $1 lives that started at $2.
_bs_runs() {
    case ${1-} in
    '' | 0* | *[!0-9]*) return 1 ;;
    esac
    if [ -r /proc/self/stat ]; then
        _bs_start_of "$1"
        [ -n "$_bs_began" ] && [ "$_bs_began" = "$2" ]
    else
        kill -0 "$1" 2>/dev/null
    fi
}

# Set _bs_began to when the process $1 started: field 22 of proc_pid_stat(5). Nothing if that cannot be told.
_bs_start_of() {
    _bs_began=
    if [ ! -r "/proc/$1/stat" ]; then return 0; fi
    IFS= read -r _bs_line 2>/dev/null <"/proc/$1/stat" || return 0
    # shellcheck disable=SC2086 # the fields of the line
    set -- ${_bs_line##*) }
    _bs_began=${20-}
}

# Become the real program. If it is a script, it may be a wrapper, and is told which process became it.
_bs_become_it() {
    if [ -n "$_bs_script" ]; then
        _bs_start_of "$$"
        export BUILD_SLOTS_SHIM="$$:$_bs_began:$_bs_real"
    fi
    exec "$_bs_real" "$@"
}

_bs_before=
case ${BUILD_SLOTS_SHIM-} in
"$$":*:/*)
    _bs_start_of "$$"
    case $BUILD_SLOTS_SHIM in
    "$$:$_bs_began:"*) _bs_before=${BUILD_SLOTS_SHIM#*:*:} ;;
    esac
    ;;
esac
_bs_find "$_bs_name" "$_bs_before"
if [ -z "$_bs_found" ]; then
    printf '%s: command not found\n' "$_bs_name" >&2
    exit 127
fi
_bs_real=$_bs_found _bs_script=$_bs_line
case ${BUILD_SLOTS_DISABLE-} in
1 | [Tt][Rr][Uu][Ee] | [Yy][Ee][Ss] | [Oo][Nn]) _bs_become_it "$@" ;;
esac
if [ -n "${BUILD_SLOTS_HELD-}" ] && _bs_is_live; then _bs_become_it "$@"; fi

# What follows is not even read below a slot.
# Which commands are builds: made from the table of buildslots/agents/heavy.py and `[agents]` in the config.

# Set _bs_said to what the user says of the command: "heavy", "light" or nothing.
_bs_user() {
    _bs_said=
    case $_bs_name in
@USER@
    esac
}

# A word with which it is no build.
_bs_light() {
    case $_bs_name in
@LIGHT@
    esac
    return 1
}

# An option whose value is the next word.
_bs_valued() {
    case $_bs_name in
@VALUED@
    esac
    return 1
}

# Whether it builds with the operands $1.
_bs_heavy() {
    case $_bs_name in
@HEAVY@
    *) return 1 ;;
    esac
    return 0
}

_bs_builds() {
    _bs_user "$@"
    case $_bs_said in
    heavy) return 0 ;;
    light) return 1 ;;
    esac
    _bs_operands='' _bs_count=0 _bs_after='' _bs_skip=''
    for _bs_word do
        if [ -n "$_bs_skip" ]; then
            _bs_skip=
            continue
        fi
        if [ -z "$_bs_after" ]; then
            if [ "x$_bs_word" = x-- ]; then
                _bs_after=1
                continue
            fi
            if _bs_light "$_bs_word"; then return 1; fi
            if _bs_valued "$_bs_word"; then
                _bs_skip=1
                continue
            fi
            case $_bs_word in
            [-+]*) continue ;;
            esac
        else
            case $_bs_word in
            @PASSED_ON@) return 1 ;;
            esac
        fi
        case $_bs_count in
        0) _bs_operands=$_bs_word _bs_count=1 ;;
        1) _bs_operands="$_bs_operands $_bs_word" _bs_count=2 ;;
        esac
    done
    _bs_heavy "$_bs_operands"
}

# Set _bs_run to slot-run: that on PATH, else the one by which this was written. Nothing if it cannot start,
# because its Python is gone: a build must not fail for it.
_bs_slot_run() {
    _bs_known=
    _bs_find slot-run ''
    for _bs_run in "$_bs_found" @SLOT_RUN@; do
        if [ ! -f "$_bs_run" ] || [ ! -x "$_bs_run" ] || [ ! -r "$_bs_run" ]; then continue; fi
        _bs_line=
        IFS= read -r _bs_line <"$_bs_run" || :
        case $_bs_line in
        '#!'*)
            # shellcheck disable=SC2086 # the words of the line
            set -- ${_bs_line#'#!'}
            if [ ! -x "${1-}" ]; then continue; fi
            ;;
        esac
        return 0
    done
    return 1
}

if _bs_builds "$@" && _bs_slot_run; then
    exec "$_bs_run" -- "$_bs_real" "$@"
fi
_bs_become_it "$@"
