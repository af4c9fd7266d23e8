//! Why a packet was dropped. Every drop has one of these, and each is a counter.

macro_rules! drop_reasons {
    ($($variant:ident $name:literal $help:literal,)*) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $help] $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name in metrics, listings and reports.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for operators.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

drop_reasons! {
    EthShort "eth_short" "The frame is shorter than its Ethernet (and VLAN) header.",
    NotForUs "not_for_us" "The destination MAC address is another host's.",
    IpShort "ip_short" "The frame ends within the IP header.",
    IpVersion "ip_version" "The IP version does not match the Ethernet type.",
    IpHeaderLength "ip_header_length" "The IPv4 header length is below 20 bytes or beyond the packet.",
    IpTotalLength "ip_total_length" "The IP length field is smaller than the header or larger than what was received.",
    IpChecksum "ip_checksum" "The IPv4 header checksum is wrong.",
    IpExtension "ip_extension" "An IPv6 extension header is cut or the chain is too long.",
    IpSource "ip_source" "The source address can't be a source: multicast, broadcast, unspecified or loopback.",
    L4Short "l4_short" "The packet of a virtual service ends within its transport header.",
    L4Checksum "l4_checksum" "The checksum of an ICMP error that had to be translated is wrong.",
    NoServer "no_server" "No real server is available for the service.",
    NoRoute "no_route" "There is no route to the destination.",
    NeighbourUnresolved "neighbour_unresolved" "The next hop's MAC address did not become known in time.",
    NeighbourQueueFull "neighbour_queue_full" "Too many packets wait for the next hop's MAC address.",
    TtlExceeded "ttl_exceeded" "The time to live ran out.",
    TooBig "too_big" "The packet is larger than the MTU of its way out and must not be fragmented.",
    Headroom "headroom" "There is no room in the buffer for the encapsulation header.",
    TableFull "table_full" "The connection table is full and nothing in it may be evicted.",
    TupleCollision "tuple_collision" "Another connection already uses the same client and server ports on this server.",
    DestUnavailable "dest_unavailable" "The connection's real server was removed or is down, and the service says drop.",
    NoConnection "no_connection" "A real server's packet of no connection; the server was told, as `ipvs.nat_icmp_send` says.",
    Fragment "fragment" "A fragment that can't be put together.",
    FragmentOverlap "fragment_overlap" "Fragments of one datagram overlap.",
    FragmentTiny "fragment_tiny" "A first fragment without its whole transport header, or a later one that begins within it.",
    FragmentTimeout "fragment_timeout" "The datagram's other fragments did not come in time.",
    FragmentDuplicate "fragment_duplicate" "The same fragment came before.",
    FragmentTableFull "fragment_table_full" "Too many datagrams are being put together; the oldest made room.",
    FragmentSourceLimit "fragment_source_limit" "Too many datagrams of one source are being put together; its oldest made room.",
    FragmentTooBig "fragment_too_big" "The datagram would be larger than 65,535 bytes, or has too many fragments.",
    NoKey "no_key" "The persistence engine found no key and the service says drop.",
    TemplateTableFull "template_table_full" "The template table, its room for long keys, or the service's or client's share of it, is full.",
    Overload "overload" "The overload defence refused a new connection.",
    HandoverFull "handover_full" "The hand-over ring to the owning worker is full.",
    PuntFull "punt_full" "The ring to the kernel's interface is full.",
    PuntRate "punt_rate" "More packets for the kernel than its rate limit lets through.",
    NoKernel "no_kernel" "It was for the kernel, but the port has no kernel interface.",
    TxFull "tx_full" "The port did not take the packet.",
    NoBuffer "no_buffer" "There was no free packet buffer.",
    IcmpUnmatched "icmp_unmatched" "An ICMP error that was to be translated quotes a malformed packet.",
    IcmpUntold "icmp_untold" "An ICMP error about a tunnel that is not passed on: too many of them, or nobody that could be told.",
    Internal "internal" "A state that should not be; please report it.",
}
