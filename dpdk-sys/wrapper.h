/*
 * What Polder uses of DPDK, for bindgen and for shim.c.
 *
 * The layout of struct rte_mbuf differs between releases (its fields move in and out of anonymous unions), so Rust does
 * not see the structure: it sees where each field that it reads is. C finds the field by name in every release.
 */
#ifndef POLDER_WRAPPER_H
#define POLDER_WRAPPER_H

#include <stddef.h>
#include <stdint.h>

#include <rte_config.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_interrupts.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

#if RTE_VERSION < RTE_VERSION_NUM(22, 11, 0, 0)
#error "Polder needs DPDK 22.11 or newer"
#endif

enum {
	POLDER_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	POLDER_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	POLDER_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	POLDER_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	POLDER_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	POLDER_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	POLDER_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	POLDER_MBUF_VLAN_TCI = offsetof(struct rte_mbuf, vlan_tci),
	POLDER_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	POLDER_MBUF_NEXT = offsetof(struct rte_mbuf, next),
};

/* The types that the Rust side reads at those places. A release that widens one does not compile. */
#define POLDER_WIDTH(field, type) \
	_Static_assert(sizeof(((struct rte_mbuf *)0)->field) == sizeof(type), "rte_mbuf." #field)
POLDER_WIDTH(buf_addr, void *);
POLDER_WIDTH(data_off, uint16_t);
POLDER_WIDTH(refcnt, uint16_t);
POLDER_WIDTH(nb_segs, uint16_t);
POLDER_WIDTH(ol_flags, uint64_t);
POLDER_WIDTH(pkt_len, uint32_t);
POLDER_WIDTH(data_len, uint16_t);
POLDER_WIDTH(vlan_tci, uint16_t);
POLDER_WIDTH(buf_len, uint16_t);
POLDER_WIDTH(next, struct rte_mbuf *);

/* Macros with casts in them, as typed constants. */
static const uint64_t POLDER_RX_VLAN_STRIPPED = RTE_MBUF_F_RX_VLAN_STRIPPED;
static const uint64_t POLDER_RX_VLAN = RTE_MBUF_F_RX_VLAN;
static const uint64_t POLDER_INDIRECT = RTE_MBUF_F_INDIRECT;
static const uint64_t POLDER_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t POLDER_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t POLDER_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint32_t POLDER_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint32_t POLDER_INTR_PRIVATE = RTE_INTR_INSTANCE_F_PRIVATE;
static const uint32_t POLDER_INTR_EXTERNAL = RTE_INTR_HANDLE_EXT;
static const uint16_t POLDER_HEADROOM = RTE_PKTMBUF_HEADROOM;

/* Whether a port has carrier, and how fast. The bit fields of struct rte_eth_link moved in 24.11. */
struct polder_link {
	uint32_t speed_mbps;
	uint8_t up;
	uint8_t full_duplex;
};

/* The functions that DPDK has in headers only (shim.c). */
uint16_t polder_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t room);
uint16_t polder_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count);
struct rte_mbuf *polder_alloc(struct rte_mempool *pool);
int polder_errno(void);
int polder_thread_is_known(void);
int polder_link_get(uint16_t port, struct polder_link *link);

#endif
