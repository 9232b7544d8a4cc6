#!/bin/sh
# Puts programs without their symbols into one folder, and the symbols into another, as <program>.debug. A program names its file of symbols,
# which debuggers look for beside it and in /usr/lib/debug.
#   deploy/strip-programs.sh PROGRAMS SYMBOLS FILE...
set -eu
programs="${1:?usage: strip-programs.sh PROGRAMS SYMBOLS FILE...}" symbols="${2:?usage: strip-programs.sh PROGRAMS SYMBOLS FILE...}"
shift 2
mkdir -p "$programs" "$symbols"
for file in "$@"; do
    name="$(basename "$file")"
    objcopy --only-keep-debug "$file" "$symbols/$name.debug"
    objcopy --strip-all --add-gnu-debuglink="$symbols/$name.debug" "$file" "$programs/$name"
done
