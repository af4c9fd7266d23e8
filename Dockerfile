# The appliance in a container. Two stages: one with everything, one with what runs.
#
#   make image          builds the base image if there is none, then this, and runs it once
#
# Debian's own Rust is too old, so the first stage takes the binary that was built outside (make build); it exists to
# leave debugging symbols and build files behind.
#
# Needs no root:    polder replay, polder check
# polder run needs: --cap-add NET_ADMIN (kernel interfaces), --cap-add NET_RAW (af_packet), --cap-add IPC_LOCK and the
#                   devices /dev/net/tun, /dev/vfio/* and /dev/hugepages (bound NICs), --network host
FROM docker.io/library/debian:bookworm-slim AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils
COPY target/release/polder /polder
RUN strip /polder

FROM docker.io/library/debian:bookworm-slim
# The poll-mode drivers are plugins; these are the virtual ones and the usual network cards.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends \
      librte-eal23 librte-ethdev23 librte-mbuf23 librte-mempool23 librte-ring23 librte-net23 \
      librte-bus-vdev23 librte-bus-pci23 librte-mempool-ring23 \
      librte-net-af-packet23 librte-net-af-xdp23 librte-net-tap23 librte-net-memif23 librte-net-null23 \
      librte-net-pcap23 librte-net-ring23 librte-net-virtio23 librte-net-vmxnet3-23 librte-net-e1000-23 \
      librte-net-ixgbe23 librte-net-i40e23 librte-net-ice23 librte-net-mlx5-23 librte-net-bnxt23 \
      iproute2 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --no-create-home polder
COPY --from=build /polder /usr/bin/polder
COPY conf/ /usr/share/polder/conf/
COPY LICENSE README.md /usr/share/doc/polder/
USER polder
ENTRYPOINT ["/usr/bin/polder"]
CMD ["--help"]
