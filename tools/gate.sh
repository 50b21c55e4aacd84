#!/usr/bin/env bash
# Steps of the GitHub Action in action.yml: analyze what has no archive yet, compare, and report in the job's summary.
#
# BASELINE, CANDIDATE  archives (.h5), or models, which are analyzed first
# INPUTS, OPTIONS      of the analyses: samples, and further options, one per line
# FAIL_IF              conditions, one per line
# COMPARE_OPTIONS      further options of the comparison, one per line
# FOLDER               where archives, the table and the verdict are written; those of an earlier comparison are removed,
#                      except archives of the same analysis, which is not repeated
#
# Whatever ends the script, its exit code goes to GITHUB_OUTPUT, and a line to the summary.
set -euo pipefail
# A failed analysis inside $(...) ends the script, too: otherwise an older archive would be judged.
shopt -s inherit_errexit

summary=${GITHUB_STEP_SUMMARY:-/dev/stdout}
is_reported=false

finish() { # reports the exit code, and the verdict if there is one
    local code=$?
    if ! $is_reported; then
        {
            echo "### onnxinfo: no verdict (exit code $code)"
            quote_messages
        } >>"$summary"
    fi
    if [ -n "${GITHUB_OUTPUT:-}" ]; then
        printf 'exit-code=%s\n' "$code" >>"$GITHUB_OUTPUT"
        if $is_reported && [ -e "$verdict" ]; then printf 'verdict=%s\n' "$verdict" >>"$GITHUB_OUTPUT"; fi
    fi
}
quote_messages() { # prints what the last command told
    if [ -s "${messages:-}" ]; then
        printf '\n```text\n'
        tail -n 20 "$messages"
        printf '```\n'
    fi
}
trap finish EXIT

# What an earlier comparison left is not the outcome of this one, however it ends.
case ${FOLDER:?name a folder} in -*) FOLDER=./$FOLDER ;; esac
verdict=$FOLDER/verdict.json
messages=$FOLDER/messages.txt
rm -f "$verdict" "$FOLDER/comparison.md" "$messages"

lines() { # reads the lines of a variable into an array, without empty ones
    local -n into=$1
    mapfile -t into < <(sed -e 's/^[[:space:]]*//' -e 's/[[:space:]]*$//' -e '/^$/d' <<<"$2")
}

lines options "${OPTIONS:-}"
lines conditions "${FAIL_IF:?name at least one condition in fail-if}"
lines compare_options "${COMPARE_OPTIONS:-}"
mkdir -p "$FOLDER"

archive() { # prints the archive of a side, analyzing its model first if it is one
    case ${2,,} in
        *.h5 | *.hdf5) printf '%s\n' "$2" ;;
        *)
            local made=$FOLDER/$1.h5 other
            for other in "${BASELINE:?}" "${CANDIDATE:?}"; do
                if [ "$other" -ef "$made" ]; then
                    echo "onnxinfo: error: $other would be replaced by the analysis of $2; choose another folder" |
                        tee "$messages" >&2
                    exit 2
                fi
            done
            # An archive that an earlier comparison left here of another analysis is replaced.
            analyze "$1" "$2" || {
                local code=$?
                grep -q "run '$1' exists and has another recipe" "$messages" || exit "$code"
                analyze "$1" "$2" --overwrite
            }
            printf '%s\n' "$made"
            ;;
    esac
}
analyze() { # analyzes the model of a side, with further options
    onnxinfo analyze "$2" --inputs "${INPUTS:?inputs are needed to analyze a model}" "${options[@]}" \
        --run "$1" -o "$FOLDER/$1.h5" "${@:3}" 2>&1 | tee "$messages" >&2
}

baseline=$(archive baseline "${BASELINE:?}")
candidate=$(archive candidate "${CANDIDATE:?}")
flags=()
for condition in "${conditions[@]}"; do flags+=(--fail-if "$condition"); done

code=0
onnxinfo compare "$baseline" "$candidate" "${flags[@]}" "${compare_options[@]}" --format markdown --force \
    --verdict "$verdict" >"$FOLDER/comparison.md" 2>"$messages" || code=$?
cat "$messages" >&2

{
    case $code in
        0) echo "### onnxinfo: passed" ;;
        3) echo "### onnxinfo: failed" ;;
        5) echo "### onnxinfo: incomplete" ;;
        *) echo "### onnxinfo: no verdict (exit code $code)" ;;
    esac
    echo
    cat "$FOLDER/comparison.md"
    quote_messages
} >>"$summary"
is_reported=true
exit "$code"
