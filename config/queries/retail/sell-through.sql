-- title: Sell-through by supplier
-- description: Of the units that a supplier delivered between two dates, how many were sold in that time.
-- parameter: from date = 2000-01-01; the first business date
-- parameter: to date = 9999-12-31; the last business date
-- cache: 10s
SELECT d.supplier, MAX(d.supplier_name) AS supplier_name, SUM(d.units_delivered) AS units_delivered,
  SUM(d.units_sold) - SUM(d.units_returned) AS units_sold,
  CASE WHEN SUM(d.units_delivered) = 0 THEN NULL
    ELSE ROUND(1.0 * (SUM(d.units_sold) - SUM(d.units_returned)) / SUM(d.units_delivered), 3) END AS sell_through
FROM retail.supplier_daily AS d
WHERE d.business_date BETWEEN :from AND :to
GROUP BY d.supplier
ORDER BY d.supplier
