#!/usr/bin/env bash
# Runs each fuzz test of the module for the given time.
set -euo pipefail
cd "$(dirname "$0")/.."
time=${1:?usage: fuzz.sh DURATION}
git grep -l '^func Fuzz' -- '*_test.go' ':!bench/' | xargs -n1 dirname | sort -u | while read -r dir; do
  grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' | while read -r name; do
    go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "./$dir"
  done
done
