"""A wallet's day through python-bitcoinrpc: fund, send, reorganise, resync. Takes the node's URL; has a wallet `w`."""
import sys
from decimal import Decimal

from bitcoinrpc.authproxy import AuthServiceProxy, JSONRPCException

NOBODY = "bcrt1qqyqszqgpqyqszqgpqyqszqgpqyqszqgpvxat9t"
# Blocks of a new branch pay to another, so that they are not those that were taken away.
NOBODY_ELSE = "bcrt1qqgpqyqszqgpqyqszqgpqyqszqgpqyqszazmwwa"

node = AuthServiceProxy(sys.argv[1], timeout=60)
wallet = AuthServiceProxy(sys.argv[1] + "/wallet/w", timeout=60)


def equal(what, found, wanted):
    assert found == wanted, f"{what}: {found!r}, not {wanted!r}"


for kind in ["legacy", "p2sh-segwit", "bech32", "bech32m"]:
    node.generatetoaddress(1, wallet.getnewaddress("till", kind))
node.generatetoaddress(100, NOBODY)
equal("balance", wallet.getbalance(), Decimal("200.00000000"))
equal("labels", wallet.listlabels(), ["till"])

# Not by batch_, which speaks JSON-RPC 2.0 and expects the errors of 1.1: it fails on Core from 28.0 on as well.
addresses = [wallet.getnewaddress("batch", "bech32m") for _ in range(5)]
equal("addresses", len(set(addresses)), 5)
txid = wallet.sendmany("", {address: Decimal("1.5") for address in addresses})
sent = wallet.gettransaction(txid)
equal("inside", sent["amount"], Decimal(0))
paid = wallet.sendtoaddress(NOBODY, Decimal("60.12345678"))
fees = sent["fee"] + wallet.gettransaction(paid)["fee"]
equal("mempool", set(node.getrawmempool()), {txid, paid})
block = node.generatetoaddress(1, NOBODY)[0]
left = Decimal("200") - Decimal("60.12345678") + fees
equal("balance", wallet.getbalance(), left)
equal("received", wallet.getreceivedbylabel("batch"), Decimal("7.5"))

# A reorganisation takes the block away, and brings the payments back.
node.invalidateblock(block)
equal("confirmations", wallet.gettransaction(paid)["confirmations"], 0)
equal("mempool", set(node.getrawmempool()), {txid, paid})
node.generatetoaddress(2, NOBODY_ELSE)
equal("balance", wallet.getbalance(), left)
equal("confirmations", wallet.gettransaction(paid)["confirmations"], 2)

# Resync: from the disk, and from the chain.
node.unloadwallet("w")
try:
    wallet.getbalance()
    raise AssertionError("a wallet that is not loaded answers")
except JSONRPCException as error:
    equal("error", error.code, -18)
node.loadwallet("w")
equal("balance", wallet.getbalance(), left)
equal("rescan", wallet.rescanblockchain(), {"start_height": 0, "stop_height": 106})
equal("balance", wallet.getbalance(), left)
equal("coins", sum(coin["amount"] for coin in wallet.listunspent()), left)
try:
    wallet.sendtoaddress(NOBODY, Decimal("1000"))
    raise AssertionError("more was paid than there is")
except JSONRPCException as error:
    equal("error", (error.code, error.message), (-6, "Insufficient funds"))
print("ok")
