"""The fault `page_drift` hides the newest order in the responses that it is applied to, and nowhere else."""

import pytest

pytestmark = pytest.mark.anyio

ORDERS = "/partner/walletable/orders"
PRODUCTS = "/partner/walletable/products"


@pytest.fixture
async def placed(api):
    """Return the ids of three orders, newest first."""
    await api.create_customer()
    ids = []
    for _ in range(3):
        ids.insert(0, (await api.complete((await api.add_item()).data)).data["id"])
    return ids


@pytest.fixture
def list_ids(api):
    async def list_ids(**query):
        return [order["id"] for order in (await api.get(ORDERS, **query)).data["data"]]

    return list_ids


@pytest.mark.parametrize(
    ("change", "page", "is_hidden"), [("insert", 1, True), ("remove", 2, True), ("remove", 1, False)]
)
async def test_page_drift_lists_the_order_again_when_used_up(api, sandbox, placed, list_ids, change, page, is_hidden):
    fault = sandbox.faults.add("page_drift", path="*/orders", change=change)
    assert (await api.get(ORDERS, page=page)).data["total"] == 3 - is_hidden
    assert fault.hits == 1
    assert await list_ids() == placed
    assert await list_ids(orderId=placed[0]) == [placed[0]]


async def test_page_drift_lists_the_order_again_when_removed(sandbox, placed, list_ids):
    fault = sandbox.faults.add("page_drift", path="*/orders", times=None)
    assert await list_ids() == placed[1:]
    fault.remove()
    assert await list_ids() == placed


async def test_page_drift_of_another_operation_hides_no_order(api, sandbox, placed, list_ids):
    fault = sandbox.faults.add("page_drift", path="*/products", times=None)
    assert (await api.get(PRODUCTS)).status == 200
    assert fault.hits == 1
    assert await list_ids() == placed


async def test_page_drift_keeps_an_order_that_the_test_hides(sandbox, placed, list_ids):
    sandbox.shop.set_listed(placed[0], is_listed=False)
    sandbox.faults.add("page_drift", path="*/orders", times=2)
    assert await list_ids(page=2) == []
    assert await list_ids() == placed[1:]
    assert await list_ids() == placed[1:]
