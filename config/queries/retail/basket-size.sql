-- title: Basket size
-- description: How many units and what amount a sale has on average, store by store. Amounts are minor units.
-- parameter: from date = 2000-01-01; the first business date
-- parameter: to date = 9999-12-31; the last business date
-- cache: 10s
SELECT s.store, s.currency, COUNT(*) AS sales, ROUND(1.0 * SUM(s.units_sold) / COUNT(*), 2) AS units,
  ROUND(1.0 * SUM(s.gross_amount) / COUNT(*), 2) AS amount
FROM retail.sale AS s
WHERE s.business_date BETWEEN :from AND :to
GROUP BY s.store, s.currency
ORDER BY s.store, s.currency
