"""Messages and names in the responses of the sandbox, in Turkish (the vendor's default) and English.

We infer that `Accept-Language` selects their language (evidence guide, "Common to all operations").
"""

# ruff: noqa: RUF001 - Turkish has a dotless i

_TEXTS: dict[str, tuple[str, str]] = {
    "unauthenticated": ("Kimlik doğrulanamadı.", "Unauthenticated."),
    "wrong_uri": (
        "Digest başka bir adres için hesaplanmış.",
        "The digest was made for another request target.",
    ),
    "not_found": ("Kayıt bulunamadı.", "Not found."),
    "no_route": ("Böyle bir adres yok.", "The route could not be found."),
    "wrong_method": ("Bu metot desteklenmiyor.", "The method is not supported for this route."),
    "invalid": ("Verilen veri geçersiz.", "The given data was invalid."),
    "completed": ("Sepet zaten tamamlandı.", "The basket has been completed already."),
    "failed": ("İşlem başarısız.", "The operation failed."),
    "too_many": ("Çok fazla istek.", "Too many requests."),
    "too_large": ("İstek çok büyük.", "The request is too large."),
    "required": ("{field} alanı gereklidir.", "The {field} field is required."),
    "string": ("{field} bir metin olmalıdır.", "The {field} must be a string."),
    "integer": ("{field} bir tam sayı olmalıdır.", "The {field} must be an integer."),
    "object": ("{field} bir nesne olmalıdır.", "The {field} must be an object."),
    "min_length": ("{field} en az {n} karakter olmalıdır.", "The {field} must be at least {n} characters."),
    "max_length": (
        "{field} en fazla {n} karakter olabilir.",
        "The {field} may not be greater than {n} characters.",
    ),
    "min": ("{field} en az {n} olmalıdır.", "The {field} must be at least {n}."),
    "max": ("{field} en fazla {n} olabilir.", "The {field} may not be greater than {n}."),
    "pattern": ("{field} biçimi geçersiz.", "The {field} format is invalid."),
    "email": ("{field} geçerli bir e-posta olmalıdır.", "The {field} must be a valid email address."),
    "choice": ("Seçilen {field} geçersiz.", "The selected {field} is invalid."),
    "boolean": ("{field} true veya false olmalıdır.", "The {field} field must be true or false."),
    "date": (
        "{field} YYYY-MM-DD biçiminde bir tarih olmalıdır.",
        "The {field} must be a date as YYYY-MM-DD.",
    ),
    "with": ("{field} alanı {other} ile birlikte gereklidir.", "The {field} field is required with {other}."),
    "without": ("{field} veya {other} gereklidir.", "The {field} field is required without {other}."),
    "before": ("{field}, {other} tarihinden önce olamaz.", "The {field} may not be before {other}."),
    "too_long": ("Aralık en fazla {n} nokta içerebilir.", "The range may not hold more than {n} points."),
    "taken": ("{field} zaten alınmış.", "The {field} has already been taken."),
    "fixed": ("{field} değiştirilemez.", "The {field} may not be changed."),
    "json": ("Gövde bir JSON nesnesi olmalıdır.", "The body must be a JSON object."),
    "no_line": ("{field} sepette yok.", "The {field} is not in the basket."),
    "stock": ("Yeterli stok yok.", "There is not enough stock."),
    "holding": ("Cüzdanda yeterli adet yok.", "The wallet does not hold that many pieces."),
    "undeliverable": ("{field} teslim edilemez.", "The {field} can not be delivered."),
    "empty": ("Sepet boş.", "The basket is empty."),
    "expired": ("Fiyat sabitleme süresi doldu.", "The price fix has expired."),
    "kind": ("Sepet bu işlem için değil.", "The basket is not for this operation."),
    "Sigorta": ("Sigorta", "Insurance"),
    "Kargo": ("Kargo", "Shipping"),
    "Fiziksel Dönüşüm": ("Fiziksel Dönüşüm", "Physical Conversion"),
    "Mint Ücreti": ("Mint Ücreti", "Minting Fee"),
    "description": ("Ürün açıklaması", "Product description"),
}


def translate(key: str, language: str, /, **values: object) -> str:
    """Return a message in `tr` or `en`, with its placeholders filled."""
    return _TEXTS[key][language == "en"].format(**values)
