#!/bin/sh
# Certificates and rights at the broker for a plant: who may connect, and what each may read and write there.
set -eu

usage() {
  cat <<'EOF'
usage: deploy/pki.sh FOLDER ca
       deploy/pki.sh FOLDER broker HOST...
       deploy/pki.sh FOLDER agent GATEWAY
       deploy/pki.sh FOLDER replica NAME GATEWAY
       deploy/pki.sh FOLDER page NAME GATEWAY
       deploy/pki.sh FOLDER sensor ASSET GATEWAY
       deploy/pki.sh FOLDER site NAME
       deploy/pki.sh FOLDER operator NAME
       deploy/pki.sh FOLDER monitor NAME
       deploy/pki.sh FOLDER revoke NAME

Makes in FOLDER a certificate authority of your own (ca.pem, ca.key), then one certificate and key for the broker
(broker.pem, broker.key, for every HOST: a name or an address) and for each client (NAME.pem, NAME.key), and writes
each client's rights to the access list (acl), as mosquitto reads them:

  agent     takes its own gateway's windows, labels and commands, and alone writes its diagnoses, status and certificates
  replica   answers windows of one gateway beside it, and takes no command
  page      the page of one gateway: reads all of it, and asks it to forget
  sensor    writes the windows of one asset of one gateway, and reads nothing; its name is ASSET@GATEWAY
  site      the broker of a site, at the central one (deploy/mosquitto/bridge.conf): speaks for all gateways of its site
  operator  asks any gateway to forget, gives labels, and reads all
  monitor   reads all, discovery messages too, and writes nothing

Done again for the same name, it makes a new certificate; the rights stay as they are, also if you have changed them.
revoke takes a client's rights away and puts all certificates that it ever had (issued/) on the list of those that the
broker refuses (crl.pem).
DAYS=30 deploy/pki.sh ... chooses how long a certificate holds (default 825, the authority 3650). Keep ca.key off the
gateways and off the broker.
EOF
}

fail() {
  echo "pki.sh: $*" >&2
  exit 1
}

case "${1:-}" in '' | -h | --help) usage; exit 0 ;; esac
[ $# -ge 2 ] || { usage >&2; exit 2; }
folder=$1 kind=$2
shift 2
umask 077
mkdir -p "$folder"
case "${DAYS:-825}" in *[!0-9]* | '') fail "DAYS is '$DAYS', expected a number" ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

ssl() { # runs openssl, and shows what it says only if it fails
  openssl "$@" >"$work/said" 2>&1 || { cat "$work/said" >&2; fail "openssl $1 failed, see above"; }
}

named() { # NAME: a client's name is one level of a topic, and the name of two files
  case "$1" in
    '' | *[!A-Za-z0-9._-]* | ca | broker | acl) fail "'$1' is no name: A-Z a-z 0-9 . _ - and not ca, broker or acl" ;;
  esac
}

authority() {
  [ ! -e "$folder/ca.key" ] || fail "$folder/ca.key is there already; every certificate was signed with it"
  ssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "${DAYS:-3650}" -subj "/CN=plant" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout "$work/ca.key" -out "$work/ca.pem"
  mv "$work/ca.key" "$folder/ca.key"
  publish ca.pem
  list_revoked
}

publish() { # FILE of $work: what everybody may read
  chmod 0644 "$work/$1"
  mv "$work/$1" "$folder/$1"
}

list_revoked() { # [CERTIFICATE... to put on the list]
  touch "$folder/revoked"
  cat >"$work/ca.cnf" <<EOF
[ca]
default_ca = plant
[plant]
database = $folder/revoked
default_md = sha256
default_crl_days = 3650
EOF
  for one; do # of an attempt that was cut off some may be on it already
    serial=$(openssl x509 -in "$one" -noout -serial | cut -d= -f2)
    ! grep -q "^R.*	$serial	" "$folder/revoked" || continue
    ssl ca -config "$work/ca.cnf" -cert "$folder/ca.pem" -keyfile "$folder/ca.key" -revoke "$one"
  done
  ssl ca -config "$work/ca.cnf" -cert "$folder/ca.pem" -keyfile "$folder/ca.key" -gencrl -out "$work/crl.pem"
  publish crl.pem
}

certify() { # NAME USAGE [ALTERNATIVE NAMES]
  [ -e "$folder/ca.key" ] || fail "no authority in $folder: deploy/pki.sh $folder ca"
  if [ -e "$folder/$1.pem" ] && ! openssl x509 -in "$folder/$1.pem" -noout -subject -nameopt RFC2253 |
    grep -q "OU=$kind\$"; then
    fail "$folder/$1.pem is the certificate of another kind of client"
  fi
  remember "$1"
  {
    echo "basicConstraints=critical,CA:FALSE"
    echo "extendedKeyUsage=$2"
    [ -z "${3:-}" ] || echo "subjectAltName=$3"
  } >"$work/extensions"
  ssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/OU=$kind/CN=$1" -keyout "$work/$1.key" \
    -out "$work/$1.csr"
  # A serial number of its own, by which it can be revoked.
  ssl x509 -req -in "$work/$1.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -days "${DAYS:-825}" \
    -set_serial "0x$(openssl rand -hex 16 | sed 's/^./1/')" -extfile "$work/extensions" -out "$work/$1.pem"
  mv "$work/$1.key" "$folder/$1.key"
  publish "$1.pem"
  remember "$1"
}

remember() { # NAME: until it ends, its present certificate is as good as the next one, and is revoked with it
  [ -e "$folder/$1.pem" ] || return 0
  mkdir -p "$folder/issued/$1"
  cp "$folder/$1.pem" "$folder/issued/$1/$(openssl x509 -in "$folder/$1.pem" -noout -serial | cut -d= -f2).pem"
}

grant() { # NAME < RIGHTS
  grep -qxF "user $1" "$folder/acl" 2>/dev/null || { echo "user $1"; sed 's/^/topic /'; echo; } >>"$folder/acl"
}

case "$kind" in
  ca) authority ;;
  broker)
    [ $# -ge 1 ] || fail "broker needs a HOST"
    names=''
    for host; do
      case "$host" in
        *:*) names=$names,IP:$host ;;
        *[!0-9.]*) names=$names,DNS:$host ;;
        *) names=$names,IP:$host ;;
      esac
    done
    certify broker serverAuth "${names#,}"
    ;;
  agent)
    [ $# -eq 1 ] || fail "agent needs a GATEWAY"
    named "$1"
    certify "$1" clientAuth
    grant "$1" <<EOF
read edge/$1/windows/+
read edge/$1/labels/+
read edge/$1/unlearn/+
read unlearn/+
write edge/$1/diagnosis/+
write edge/$1/status
write edge/$1/release
write edge/$1/refused
write edge/$1/unlearn/+/status
write edge/$1/unlearn/+/certificate
read edge/$1/models/+/unlearn/+
write homeassistant/device/$(printf %s "$1" | sed 's/_/__/g; s/\./_d/g')/+/config
write edge/$1/models/+/status
write edge/$1/models/+/release
write edge/$1/models/+/refused
write edge/$1/models/+/unlearn/+/status
write edge/$1/models/+/unlearn/+/certificate
EOF
    ;;
  replica)
    [ $# -eq 2 ] || fail "replica needs a NAME and a GATEWAY"
    named "$1"
    named "$2"
    certify "$1" clientAuth
    grant "$1" <<EOF
read edge/$2/windows/+
read edge/$2/release
write edge/$2/diagnosis/+
write edge/$1/status
write edge/$1/refused
EOF
    ;;
  page)
    [ $# -eq 2 ] || fail "page needs a NAME and a GATEWAY"
    named "$1"
    named "$2"
    certify "$1" clientAuth
    grant "$1" <<EOF
read edge/$2/#
write edge/$2/unlearn/+
write edge/$2/models/+/unlearn/+
EOF
    ;;
  sensor)
    [ $# -eq 2 ] || fail "sensor needs an ASSET and a GATEWAY"
    named "$1"
    named "$2"
    certify "$1@$2" clientAuth
    grant "$1@$2" <<EOF
write edge/$2/windows/$1
EOF
    ;;
  site)
    [ $# -eq 1 ] || fail "site needs a NAME"
    named "$1"
    certify "$1" clientAuth
    grant "$1" <<EOF
read edge/+/unlearn/+
read edge/+/models/+/unlearn/+
read unlearn/+
write edge/+/status
write edge/+/release
write edge/+/refused
write edge/+/unlearn/+/status
write edge/+/unlearn/+/certificate
write edge/+/models/+/status
write edge/+/models/+/release
write edge/+/models/+/refused
write edge/+/models/+/unlearn/+/status
write edge/+/models/+/unlearn/+/certificate
EOF
    ;;
  revoke)
    [ $# -eq 1 ] || fail "revoke needs a NAME"
    case "$1" in
      '' | ca | *[!A-Za-z0-9._@-]*) fail "'$1' is no client" ;;
    esac
    [ -e "$folder/$1.pem" ] || fail "there is no $folder/$1.pem"
    remember "$1"
    list_revoked "$folder/issued/$1"/*.pem
    rm -r "$folder/issued/$1"
    if [ -e "$folder/acl" ]; then
      awk -v user="user $1" '$0 == user { skip = 1 } !skip; /^$/ { skip = 0 }' "$folder/acl" >"$work/acl"
      mv "$work/acl" "$folder/acl"
    fi
    mv "$folder/$1.pem" "$folder/$1.pem.revoked"
    rm -f "$folder/$1.key"
    ;;
  monitor)
    [ $# -eq 1 ] || fail "monitor needs a NAME"
    named "$1"
    certify "$1" clientAuth
    grant "$1" <<EOF
read edge/#
read homeassistant/#
EOF
    ;;
  operator)
    [ $# -eq 1 ] || fail "operator needs a NAME"
    named "$1"
    certify "$1" clientAuth
    grant "$1" <<EOF
read edge/#
write edge/+/labels/+
write edge/+/unlearn/+
write edge/+/models/+/unlearn/+
write unlearn/+
EOF
    ;;
  *) usage >&2; fail "unknown kind '$kind'" ;;
esac
