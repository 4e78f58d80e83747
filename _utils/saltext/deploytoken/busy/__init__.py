"""What a deploy would interrupt on the machines: the verdict over many answers, waiting, and consent."""
