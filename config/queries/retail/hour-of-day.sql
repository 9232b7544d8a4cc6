-- title: Sales by hour
-- description: How many sales were recorded in each hour of the day, in UTC.
-- parameter: from date = 2000-01-01; the first business date
-- parameter: to date = 9999-12-31; the last business date
-- parameter: store text = null; one store alone
-- cache: 10s
SELECT SUBSTR(CAST(s.recorded_at AS text), 12, 2) AS hour, COUNT(*) AS sales, SUM(s.units_sold) AS units
FROM retail.sale AS s
WHERE s.business_date BETWEEN :from AND :to AND (:store IS NULL OR s.store = :store)
GROUP BY SUBSTR(CAST(s.recorded_at AS text), 12, 2)
ORDER BY hour
