#!/usr/bin/env bash
# Builds a base image's root file system with debootstrap and prints where it is: a tar archive for `docker import`.
# It is made once per suite and package list and kept below ~/.cache/aiops. Wants root.
# usage: tools/images/base.sh [PACKAGE...]     (without one: Python with what engines' environments are made of)
set -euo pipefail
packages=("$@")
if [ ${#packages[@]} -eq 0 ]; then
  minor=$(apt-cache depends python3-minimal | sed -n 's/.*Depends: python3\.\([0-9]*\)-minimal.*/\1/p' | head -1)
  packages=(python3-venv "libpython3.$minor" libgomp1 libnuma1)
fi
# The mirror and the suite that this machine itself is installed from.
read -r mirror suite < <(apt-get indextargets --format '$(SITE) $(RELEASE)' | grep -v -e '-security' -e '-updates' | sort -u | head -1)
[ -n "${suite:-}" ] || { echo "no Debian mirror is set up on this machine: see sources.list(5)" >&2; exit 1; }
list=$(IFS=,; echo "${packages[*]}")
cache=${AIOPS_CACHE:-$HOME/.cache/aiops}
archive=$cache/base-$suite-$(printf '%s' "$list" | sha256sum | cut -c1-16).tar
mkdir -p "$cache"
exec 9>"$archive.lock"
flock 9
if [ ! -e "$archive" ]; then
  work=$(mktemp -d "$cache/base-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  debootstrap --variant=minbase --include="$list" "$suite" "$work/root" "$mirror" >"$archive.log" 2>&1 || {
    tail -5 "$archive.log" >&2
    exit 1
  }
  rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}/* "$work"/root/dev/*
  tar -C "$work/root" --numeric-owner -cf "$archive.new" .
  mv "$archive.new" "$archive"
fi
echo "$archive"
