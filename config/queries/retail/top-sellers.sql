-- title: Top sellers
-- description: The products of which most units were sold, and what they brought, before returns.
-- parameter: from date = 2000-01-01; the first business date
-- parameter: to date = 9999-12-31; the last business date
-- parameter: store text = null; one store alone
-- money: amount in currency
-- cache: 10s
-- rows: 100
SELECT l.sku, p.name, SUM(l.quantity) AS units, SUM(l.quantity * l.unit_price) AS amount, s.currency
FROM retail.sale AS s
JOIN retail.sale_lines AS l ON l.store = s.store AND l.business_date = s.business_date AND l.sale = s.sale
LEFT JOIN retail.product AS p ON p.sku = l.sku
WHERE s.business_date BETWEEN :from AND :to AND (:store IS NULL OR s.store = :store)
GROUP BY l.sku, p.name, s.currency
ORDER BY units DESC, l.sku, s.currency
