-- title: Returns rate
-- description: What part of the units sold came back, store by store.
-- parameter: from date = 2000-01-01; the first business date
-- parameter: to date = 9999-12-31; the last business date
-- cache: 10s
SELECT d.store, SUM(d.units_sold) AS units_sold, SUM(d.units_returned) AS units_returned,
  CASE WHEN SUM(d.units_sold) = 0 THEN NULL
    ELSE ROUND(1.0 * SUM(d.units_returned) / SUM(d.units_sold), 3) END AS returns_rate
FROM retail.store_daily AS d
WHERE d.business_date BETWEEN :from AND :to
GROUP BY d.store
ORDER BY d.store
