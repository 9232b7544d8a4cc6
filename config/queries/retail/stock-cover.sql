-- title: Stock cover
-- description: For how many days the stock of a store lasts if as much is sold each day as in a time before.
-- parameter: from date; the first business date of that time
-- parameter: days integer; how many days it has
-- parameter: store text = null; one store alone
SELECT k.location AS store, k.sku, k.on_hand, SUM(l.quantity) AS units_sold,
  ROUND(1.0 * k.on_hand * :days / SUM(l.quantity), 1) AS days_of_cover
FROM retail.stock AS k
JOIN retail.sale_lines AS l ON l.store = k.location AND l.sku = k.sku
WHERE l.business_date >= :from AND (:store IS NULL OR k.location = :store)
GROUP BY k.location, k.sku, k.on_hand
ORDER BY days_of_cover, k.location, k.sku
