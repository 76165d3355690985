#!/usr/bin/env bash
# Installs the Debian packages that the tests use and the machine lacks. Without root it says what is missing.
set -euo pipefail
declare -A package_of=([gcc]=gcc [node]=nodejs [npm]=npm [ip]=iproute2 [iptables]=iptables [dockerd]=docker.io [debootstrap]=debootstrap [docker-registry]=docker-registry)
missing=()
for program in "${!package_of[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "the tests want these Debian packages, install them first: ${missing[*]}" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
