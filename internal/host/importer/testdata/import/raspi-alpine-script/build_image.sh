#!/bin/bash
set -eEuo pipefail
IMG="ghcr.io/raspi-alpine/builder"
export DEFAULT_KERNEL_MODULES="ipv6 af_packet"
ARCH="aarch64"
CGO_ENABLED=0 go build -o input/app .
docker pull $IMG
docker run --rm -it \
    -v "$PWD/input:/input" \
    -e DEFAULT_HOSTNAME=clock -e ARCH -e DEFAULT_KERNEL_MODULES \
    --env DEFAULT_TIMEZONE=Asia/Tokyo \
    --env=DEFAULT_ROOT_PASSWORD="hush" \
    --env SIZE_ROOT_FS="200M" \
    --env-file more.env \
    -e IMG_NAME="clock-${VERSION}" \
    $IMG
