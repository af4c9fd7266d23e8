/* The inline functions of DPDK as symbols. A call per burst is measured to cost nothing; none is made per packet. */
#include "wrapper.h"

uint16_t polder_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t room)
{
	return rte_eth_rx_burst(port, queue, frames, room);
}

uint16_t polder_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **frames, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, frames, count);
}

struct rte_mbuf *polder_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

/* rte_errno is a macro over a thread-local variable, which bindgen would take for an ordinary static. */
int polder_errno(void)
{
	return rte_errno;
}

int polder_link_get(uint16_t port, struct polder_link *link)
{
	struct rte_eth_link now = { 0 };
	int error = rte_eth_link_get_nowait(port, &now);

	if (error != 0)
		return error;
	link->speed_mbps = now.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN ? 0 : now.link_speed;
	link->up = now.link_status == RTE_ETH_LINK_UP;
	link->full_duplex = now.link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
	return 0;
}
