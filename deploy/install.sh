#!/bin/sh
# Installs edge-agent from this tree. Run it again to upgrade: configuration, keys and state stay.
set -eu
umask 022  # the service's user must read what root installs

usage() {
  cat <<'EOF'
usage: deploy/install.sh [--destdir DIR] [--python PROGRAM] [--wheels DIR] [--jetson] [--no-start]
       deploy/install.sh --uninstall [--purge]

Installs into /opt/edge-agent a Python environment of its own, and beside it the service edge-agent, the command
/usr/bin/edge-agent and a configuration, /etc/edge-agent/agent.toml, to fill in. Run it again to upgrade; what is
configured, sealed and cached stays, and the version before stays in /opt/edge-agent/versions.

  --destdir DIR     install below DIR, as for an image of a gateway; nothing is started, and no key is made:
                    each gateway makes its own when it first starts
  --python PROGRAM  the interpreter, 3.10 or later (default: /usr/bin/python3); it must be there on the gateway too
  --wheels DIR      take all packages from DIR, without a network (pip download -d DIR -c constraints.txt hatchling
                    '.[oci,web]');
                    the tree must have been built once with a network (make), which fetches the page's charts; a wheel
                    of onnxruntime-gpu in DIR takes the place of onnxruntime
  --jetson          open the sandbox for a GPU (default: where /etc/nv_tegra_release exists)
  --no-start        leave a running service alone
  --uninstall       stop the service and remove what was installed; configuration, keys and state stay
  --purge           with --uninstall: remove those too. What the cache and the releases hold is destroyed with the key
EOF
}

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

destdir='' python=/usr/bin/python3 wheels='' jetson=no start=yes uninstall=no purge=no
if [ -e /etc/nv_tegra_release ]; then jetson=yes; fi
while [ $# -gt 0 ]; do
  case "$1" in
    --destdir | --python | --wheels) [ $# -ge 2 ] || fail "$1 needs a value" ;;
  esac
  case "$1" in
    --destdir) destdir=${2%/}; shift ;;
    --python) python=$2; shift ;;
    --wheels) wheels=$2; shift ;;
    --jetson) jetson=yes ;;
    --no-start) start=no ;;
    --uninstall) uninstall=yes ;;
    --purge) purge=yes ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
  shift
done

WANTED=/etc/systemd/system/multi-user.target.wants/edge-agent.service
tree=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
home=$destdir/opt/edge-agent
units=$destdir/usr/lib/systemd/system

# Nothing of the machine that this runs on is touched for an image.
here() { [ -z "$destdir" ]; }
systemd_runs() { here && [ -d /run/systemd/system ]; }

remove() {
  if systemd_runs; then
    systemctl disable --now edge-agent.service edge-agent-page.service edge-agent-setup.service 2>/dev/null || true
  fi
  rm -rf "$home" "$destdir/usr/bin/edge-agent" "$units/edge-agent.service" "$units/edge-agent-setup.service" \
    "$units/edge-agent-page.service" "$units/edge-agent.service.d" "$destdir/usr/lib/sysusers.d/edge-agent.conf" \
    "$destdir/usr/share/man/man1/edge-agent.1" "$destdir/usr/share/bash-completion/completions/edge-agent" \
    "$destdir/usr/share/zsh/vendor-completions/_edge-agent" \
    "$destdir/usr/share/fish/vendor_completions.d/edge-agent.fish" "$destdir$WANTED"
  if [ "$purge" = yes ]; then
    # The key first: without it, what may be left of the rest opens to nobody.
    for secret in edge-agent-master-key edge-agent-mqtt-password; do
      [ ! -e "$destdir/etc/credstore/$secret" ] || shred -u "$destdir/etc/credstore/$secret"
    done
    rm -rf "$destdir/etc/edge-agent" "$destdir/var/lib/edge-agent"
  fi
  if systemd_runs; then systemctl daemon-reload; fi
}

# What tells one installation from another: the code, and the versions that it runs with.
digest() {
  (cd "$tree" && find edge_agent pyproject.toml constraints.txt -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z |
    xargs -0 sha256sum && "$python" -V && if [ -n "$wheels" ]; then ls "$wheels"; fi) | sha256sum | cut -c1-12
}

# Whether the version that is installed runs with what this tree asks for.
alike() {
  for path in pyproject.toml constraints.txt; do
    cmp -s "$tree/$path" "$home/current/$path" || return 1
  done
  [ "$("$python" -V)" = "$("$home/current/bin/python" -V)" ]
}

build() { # TARGET
  rm -rf "$1"
  mkdir -p "$1"
  if alike; then
    # Flash wears: what stays the same is linked, not written again. Whatever changes a file below makes a new one; these
    # are the ones that would be written in place.
    cp -al "$home/current/." "$1"
    rm -rf "${1:?}/bin" "$1/pyvenv.cfg" "$1/pyproject.toml" "$1/constraints.txt"
  fi
  "$python" -m venv "$1" || fail "$python cannot make an environment (apt install python3-venv)"
  set -- "$1" --quiet --disable-pip-version-check --no-compile -c "$tree/constraints.txt"
  [ -z "$wheels" ] || set -- "$@" --no-index --find-links "$wheels"
  environment=$1
  shift
  # A copy, since building writes into the tree it builds.
  mkdir -p "$environment/tree/deploy"
  cp -R "$tree/edge_agent" "$tree/pyproject.toml" "$tree/README.md" "$environment/tree"
  cp -R "$tree/deploy/page" "$environment/tree/deploy"
  "$environment/bin/python" -m pip install "$@" "$environment/tree[oci,web]"
  if [ -n "$wheels" ] && [ -n "$(find "$wheels" -name 'onnxruntime_gpu-*.whl')" ]; then
    # The same package by another name: one would overwrite the other.
    "$environment/bin/python" -m pip --quiet uninstall --yes onnxruntime
    "$environment/bin/python" -m pip install "$@" --no-deps --force-reinstall onnxruntime-gpu
  fi
  "$environment/bin/python" -m pip --disable-pip-version-check --quiet uninstall --yes pip setuptools
  rm -rf "$environment/tree"
  cp "$tree/pyproject.toml" "$tree/constraints.txt" "$environment"
  # These name the place where they were built.
  find "$environment/bin" -type f -delete
  find "$environment/lib" -path '*/edge_agent-*.dist-info/direct_url.json' -delete
  sed -i '/^command = /d' "$environment/pyvenv.cfg"
}

install_files() {
  version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$tree/edge_agent/__init__.py")
  name=$version-$(digest)
  if [ ! -d "$home/versions/$name" ]; then
    echo "installing $name"
    build "$home/versions/.new"
    # The service may not write there. Packages carry files for other versions of Python, which do not compile.
    "$home/versions/.new/bin/python" -m compileall -qq -s "$home/versions/.new" -p /opt/edge-agent/current \
      "$home/versions/.new/lib" || true
    mv "$home/versions/.new" "$home/versions/$name"
  else
    echo "$name is installed"
  fi
  before=$(readlink "$home/current" || true)
  ln -sfn "versions/$name" "$home/.current"
  mv -T "$home/.current" "$home/current"
  if [ "$before" != "versions/$name" ]; then
    for path in "$home"/versions/*; do
      case "versions/${path##*/}" in
        "versions/$name" | "$before") ;;
        *) rm -rf "$path" ;;
      esac
    done
  fi
  install -D -m 0755 "$tree/deploy/configure.sh" "$home/configure"
  install -D -m 0644 "$tree/deploy/agent.example.toml" "$home/agent.example.toml"
  install -D -m 0755 "$tree/deploy/edge-agent" "$destdir/usr/bin/edge-agent"
  install -D -m 0644 "$tree/systemd/edge-agent.service" "$units/edge-agent.service"
  install -D -m 0644 "$tree/systemd/edge-agent-setup.service" "$units/edge-agent-setup.service"
  install -D -m 0644 "$tree/systemd/edge-agent-page.service" "$units/edge-agent-page.service"
  install -D -m 0644 "$tree/systemd/edge-agent.sysusers" "$destdir/usr/lib/sysusers.d/edge-agent.conf"
  install -D -m 0644 "$tree/deploy/man/edge-agent.1" "$destdir/usr/share/man/man1/edge-agent.1"
  for path in bash-completion/completions/edge-agent.bash zsh/vendor-completions/_edge-agent \
    fish/vendor_completions.d/edge-agent.fish; do
    install -D -m 0644 "$tree/deploy/completions/${path##*/}" "$destdir/usr/share/${path%.bash}"
  done
  if [ "$jetson" = yes ]; then
    install -D -m 0644 "$tree/systemd/edge-agent.service.d/jetson.conf" "$units/edge-agent.service.d/jetson.conf"
  fi
}

start_service() {
  "$home/configure"
  systemd_runs || return 0
  systemctl daemon-reload
  # Once: whoever disables it later wants it so after an upgrade, too.
  [ -n "$before" ] || systemctl --quiet enable edge-agent.service
  if [ "$start" = yes ] && systemctl --quiet is-active edge-agent.service; then
    systemctl restart edge-agent.service
    systemctl try-restart edge-agent-page.service
  fi
}

if [ "$purge" = yes ] && [ "$uninstall" = no ]; then fail "--purge goes with --uninstall"; fi
if here && [ "$(id -u)" -ne 0 ]; then fail "must run as root (or with --destdir)"; fi
if [ "$uninstall" = yes ]; then
  remove
  exit 0
fi
install_files
if ! here; then
  if [ -z "$before" ]; then
    mkdir -p "$(dirname "$destdir$WANTED")"
    ln -sf /usr/lib/systemd/system/edge-agent.service "$destdir$WANTED"
  fi
else
  start_service
  cat <<'EOF'
next: fill in /etc/edge-agent/agent.toml, then
  edge-agent check --config /etc/edge-agent/agent.toml
  systemctl start edge-agent
EOF
fi
