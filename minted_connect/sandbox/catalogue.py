"""The products of the sandbox: the two documented bars, the coin of the samples, and invented products."""

from decimal import Decimal

from attrs import frozen

from .pricing import GOLD, SILVER, Metal

# ruff: noqa: RUF001 - Turkish has a dotless i

_CDN = "https://minted-tr.mncdn.com/products/10/"
_DOCUMENTED_IMAGES = (  # of MNTBAE0001, api-26503573
    _CDN + "Z1P5eT1ggOvmgyS5bwFeW1qZwS41zj5FOL3gu4Fv.png",
    _CDN + "JxMzuWaZkljzWoVXzfKZPWYY2FeAU1TQY1sAtMnv.png",
    _CDN + "qzyXgt51f7ndySM5QpMQqyDN6QBZXqAomsyshp5r.png",
    _CDN + "sKZiiWqLA9PdejL5mG2sMWOyPJl7FWD95ILsYtx4.png",
)
_CATEGORIES = {1: ("Gold Bars", "Altın Külçe"), 2: ("Silver Bars", "Gümüş Külçe"), 3: ("Coins", "Madeni Para")}


@frozen
class Product:
    """A product. `weight` is in grams; `stock` is the maximum per basket, which buying does not reduce."""

    id: int
    sku: str
    name: str
    name_tr: str
    weight: Decimal
    metal: Metal
    category: int
    stock: int = 20
    deliverable: bool = True
    images: tuple[str, ...] = ()

    def localized_name(self, language: str) -> str:
        """Return the name in `tr` or `en`."""
        return self.name_tr if language == "tr" else self.name

    def localized_category(self, language: str) -> str:
        """Return the name of the category in `tr` or `en`."""
        return _CATEGORIES[self.category][language == "tr"]


def _image_url(name: str) -> tuple[str, ...]:
    return (f"https://files.example.com/products/{name}.png",)


def _bar(number: int, sku: int, metal: Metal, weight: str, *, stock: int = 20) -> Product:
    purity, category = ("999.9 Gold", 1) if metal is GOLD else ("999.0 Silver", 2)
    name = f"Minted {weight} g {purity} Bar"
    code = f"MNTBAE{sku:04}"
    # Bars keep their English name in both languages, as in the documented examples.
    return Product(number, code, name, name, Decimal(weight), metal, category, stock, images=_image_url(code.lower()))


PRODUCTS = (
    Product(
        3000099,
        "MNTBAE0001",
        "Minted 1 g 999.9 Gold Bar",
        "Minted 1 g 999.9 Gold Bar",
        Decimal(1),
        GOLD,
        1,
        images=_DOCUMENTED_IMAGES,
    ),
    Product(
        3000100,
        "MNTBAE0013",
        "Minted 50 g 999.0 Silver Bar",
        "Minted 50 g 999.0 Silver Bar",
        Decimal(50),
        SILVER,
        2,
    ),
    _bar(3000101, 2, GOLD, "2.5"),
    _bar(3000102, 3, GOLD, "5"),
    _bar(3000103, 4, GOLD, "10"),
    _bar(3000104, 5, GOLD, "20"),
    _bar(3000105, 6, GOLD, "31.1"),
    _bar(3000106, 7, GOLD, "50"),
    _bar(3000107, 8, GOLD, "100", stock=5),
    _bar(3000108, 11, SILVER, "10"),
    _bar(3000109, 12, SILVER, "31.1"),
    _bar(3000110, 14, SILVER, "100"),
    _bar(3000111, 15, SILVER, "250"),
    _bar(3000112, 16, SILVER, "1000", stock=0),
    Product(
        3000119,
        "MNTCOIN7216",
        "Minted 7.216 g 916.7 Gold Coin",
        "Minted 7.216 g 916.7 Altın Para",
        Decimal("7.216"),
        GOLD,
        3,
        images=_image_url("coin-7216"),
    ),
    Product(
        3000120,
        "MNTCOIN2012",
        "2012 United Kingdom Collector Coin",
        "2012 Birleşik Krallık Madeni Koleksiyon Para",
        Decimal("31.1"),
        SILVER,
        3,
        deliverable=False,
        images=_image_url("coin-2012"),
    ),
)
