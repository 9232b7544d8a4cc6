-- title: Slow movers
-- description: What lies in a store or warehouse and was not sold there since a date.
-- parameter: since date; the first business date on which nothing was sold
-- parameter: location text = null; one store or warehouse alone
-- rows: 1000
SELECT k.location, k.sku, p.name, k.on_hand
FROM retail.stock AS k
LEFT JOIN retail.product AS p ON p.sku = k.sku
WHERE k.on_hand > 0 AND (:location IS NULL OR k.location = :location)
  AND NOT EXISTS (
    SELECT 1 FROM retail.sale_lines AS l
    WHERE l.store = k.location AND l.sku = k.sku AND l.business_date >= :since
  )
ORDER BY k.on_hand DESC, k.location, k.sku
