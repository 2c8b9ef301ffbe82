#!/bin/sh
# Builds a Debian package that holds all it runs with, and so installs without a network: deploy/deb.sh [FOLDER].
# Further options go to install.sh, which lays the files: deploy/deb.sh build --wheels wheels.
set -eu
umask 022

tree=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
out=${1:-$tree/dist}
[ $# -eq 0 ] || shift
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

"$tree/deploy/install.sh" --destdir "$root" "$@" >&2
rm -rf "${root:?}/etc"  # to enable the service is the postinst's to do
installed=$(readlink "$root/opt/edge-agent/current")
python=$(sed -n 's/^version = \([0-9]*\.[0-9]*\).*/\1/p' "$root/opt/edge-agent/$installed/pyvenv.cfg")
version=${installed#versions/}
version=${version%-*}
package=edge-agent_${version}_$(dpkg --print-architecture).deb

mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<EOF
Package: edge-agent
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: edge-agent <root@localhost>
Installed-Size: $(du -sk "$root" | cut -f1)
Depends: python$python, systemd
Recommends: mosquitto
Section: science
Priority: optional
Description: fault diagnosis agent that can forget a fault class
 Takes windows of accelerometers over MQTT, answers each with a diagnosis, and
 forgets a fault class on command, on the gateway, without retained data.
EOF
for script in postinst prerm postrm; do
  install -m 0755 "$tree/deploy/debian/$script" "$root/DEBIAN/$script"
done
(cd "$root" && find opt usr -type f -print0 | xargs -0 md5sum >DEBIAN/md5sums)
mkdir -p "$out"
dpkg-deb --root-owner-group -Zzstd -z3 --build "$root" "$out/$package" >&2
echo "$out/$package"
