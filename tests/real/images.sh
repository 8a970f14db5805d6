#!/bin/bash
# Packs real software that nobody here wrote as images: nginx, redis and dnsmasq, from Debian's own packages, with
# Debian's own tools (apt, dpkg-deb, umoci, skopeo).
#
#   images.sh FOLDER
#
# leaves in FOLDER (and does nothing when they are there already):
#   nginx-1.tar, nginx-2.tar   docker-archive, as `docker save` writes it: nginx:one and nginx:two, which differ in a page
#   redis.tar                  an OCI layout: redis:7
#   dnsmasq.tar                an OCI layout: dnsmasq:2
#   blob.sha256                digest of /blob.bin, a page of some MB that both nginx images serve
set -euo pipefail

out=$(realpath -m "${1:?usage: images.sh FOLDER}")
packed=$out/packed-2 # raise the number when this script packs something else
blob_mb=8

[ -e "$packed" ] && exit 0
[ "$(id -u)" = 0 ] || { echo "images.sh: needs root, to keep the owners of files" >&2; exit 1; }
for tool in apt-get dpkg-deb umoci skopeo; do
    command -v "$tool" >/dev/null || { echo "images.sh: $tool is missing (Debian: apt-get install umoci skopeo)" >&2; exit 1; }
done

rm -rf "$out"
mkdir -p "$out/apt/partial" "$out/layout"
trap 'rm -rf "$out/apt" "$out/tree" "$out/layout"' EXIT
layout=$out/layout/oci
umoci init --layout "$layout"

# fetch PACKAGE...: the packages and all they depend on, as if nothing were installed, into $out/apt.
fetch() {
    rm -f "$out"/apt/*.deb
    : >"$out/apt/none-installed"
    apt-get -qq -y --no-install-recommends --download-only \
        -o Dir::State::status="$out/apt/none-installed" -o Dir::Cache::archives="$out/apt/" -o Debug::NoLocking=true \
        -o APT::Sandbox::User=root install "$@" >"$out/apt/log" 2>&1 || { cat "$out/apt/log" >&2; return 1; }
}

# Debian's root folder with a merged /usr, and the files that maintainer scripts would have made.
new_tree() {
    rm -rf "$out/tree"
    mkdir -p "$out/tree/usr"
    local folder
    for folder in bin sbin lib lib64; do
        mkdir "$out/tree/usr/$folder"
        ln -s "usr/$folder" "$out/tree/$folder"
    done
    mkdir -p "$out"/tree/{dev,etc,proc,run,sys,var}
    mkdir -m 1777 "$out/tree/tmp"
    cat >"$out/tree/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin
redis:x:100:100:redis:/var/lib/redis:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
END
    cat >"$out/tree/etc/group" <<'END'
root:x:0:
www-data:x:33:
redis:x:100:
nogroup:x:65534:
END
}

# What only an installation needs is left out, or each image would carry perl.
unneeded='^(adduser|cdebconf|debconf|dpkg|gcc-12-base|install-info|iproute2|lsb-base|passwd|perl.*|sysvinit-utils|tar|init-system-helpers)_'

unpack() {
    local deb
    for deb in "$out"/apt/*.deb; do
        [[ $(basename "$deb") =~ $unneeded ]] && continue
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$out/tree" --keep-directory-symlink
    done
    rm -rf "$out"/tree/usr/share/{doc,man,locale,info,lintian}
}

# --- nginx: a base layer and a layer of pages, twice
fetch nginx-light
new_tree
unpack
mkdir -p "$out/tree/var/log/nginx" "$out/tree/var/lib/nginx"
rm -f "$out"/tree/etc/nginx/modules-enabled/*
cat >"$out/tree/etc/nginx/nginx.conf" <<'END'
user www-data;
worker_processes 1;
daemon off;
error_log stderr warn;
pid /run/nginx.pid;
events { worker_connections 512; }
http {
    include mime.types;
    access_log off;
    sendfile on;
    server {
        listen 80;
        root /srv/pages;
        location = /who { return 200 "$hostname $remote_addr\n"; }
        location = /health { return 200 "ok\n"; }
    }
}
END
umoci new --image "$layout:nginx-base"
umoci insert --image "$layout:nginx-base" "$out/tree" /
umoci config --image "$layout:nginx-base" --config.cmd /usr/sbin/nginx --config.exposedports 80/tcp \
    --config.stopsignal SIGQUIT --config.env PATH=/usr/sbin:/usr/bin --author "skep's tests"
mkdir -p "$out/layout/pages"
head -c "$((blob_mb << 20))" /dev/urandom >"$out/layout/pages/blob.bin"
(cd "$out/layout/pages" && sha256sum blob.bin) | cut -d' ' -f1 >"$out/blob.sha256"
# The link comes last on purpose: umoci writes no padding after the last file of a layer it inserts.
ln -s index.html "$out/layout/pages/start.html"
for version in one two; do
    echo "version $version" >"$out/layout/pages/index.html"
    chmod -R a+rX "$out/layout/pages"
    umoci tag --image "$layout:nginx-base" "nginx-$version"
    umoci insert --image "$layout:nginx-$version" "$out/layout/pages" /srv/pages
done
skopeo copy --quiet "oci:$layout:nginx-one" "docker-archive:$out/nginx-1.tar:nginx:one"
skopeo copy --quiet "oci:$layout:nginx-two" "docker-archive:$out/nginx-2.tar:nginx:two"

# --- redis: run as its own user
fetch redis-server
new_tree
unpack
mkdir -p "$out/tree/data"
chown 100:100 "$out/tree/data"
umoci new --image "$layout:redis"
umoci insert --image "$layout:redis" "$out/tree" /
umoci config --image "$layout:redis" --config.user redis --config.workingdir /data --config.exposedports 6379/tcp \
    --config.entrypoint /usr/bin/redis-server --config.cmd --bind --config.cmd 0.0.0.0 \
    --config.cmd --protected-mode --config.cmd no --config.cmd --save --config.cmd '' --author "skep's tests"
skopeo copy --quiet "oci:$layout:redis" "oci-archive:$out/redis.tar:redis:7"

# --- dnsmasq: a name server, for UDP
fetch dnsmasq-base
new_tree
unpack
umoci new --image "$layout:dnsmasq"
umoci insert --image "$layout:dnsmasq" "$out/tree" /
umoci config --image "$layout:dnsmasq" --config.entrypoint /usr/sbin/dnsmasq \
    --config.cmd --keep-in-foreground --config.cmd --user=root --config.cmd --no-resolv --config.cmd --no-hosts \
    --config.cmd --conf-file=/dev/null --config.cmd --pid-file= --config.cmd --log-facility=- \
    --config.cmd --address=/skep.test/192.0.2.7 --config.exposedports 53/udp --author "skep's tests"
skopeo copy --quiet "oci:$layout:dnsmasq" "oci-archive:$out/dnsmasq.tar:dnsmasq:2"

touch "$packed"
