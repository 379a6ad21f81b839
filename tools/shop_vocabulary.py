"""Words of the simulated shop: lifestyles that sell in both domains, invented brands, wording.

Only data lives here; :mod:`tools.simulate` turns it into items and purchases.
"""

from typing import NamedTuple


class Kind(NamedTuple):
    """A sort of product: its name, the shelf (category) it stands on, a usual price in dollars."""

    name: str
    shelf: str
    price: float


class Lifestyle(NamedTuple):
    """A taste that reaches over both domains.

    The kinds of the two domains are aligned: ``cloth[j]`` and ``sport[j]`` complement each other,
    and inside a domain kind ``j`` leads to ``j + 1`` and ``j + 2`` (cyclic).
    """

    department: str
    purpose: str
    cloth_adjectives: tuple[str, ...]
    sport_adjectives: tuple[str, ...]
    cloth: tuple[Kind, ...]
    sport: tuple[Kind, ...]


LIFESTYLES: tuple[Lifestyle, ...] = (
    Lifestyle(
        "Camping & Hiking",
        "long days on the trail and nights under canvas",
        ("Waterproof", "Rugged", "Breathable", "Packable", "All-Terrain", "Weatherproof"),
        ("Rugged", "Ultralight", "Packable", "All-Season", "Collapsible", "Weatherproof"),
        (
            Kind("Hiking Boot", "Shoes", 95),
            Kind("Fleece Jacket", "Clothing", 60),
            Kind("Merino Hiking Sock", "Accessories", 16),
            Kind("Convertible Trail Pant", "Clothing", 55),
            Kind("Rain Shell", "Clothing", 85),
        ),
        (
            Kind("Trekking Pole", "Hiking Gear", 45),
            Kind("Camping Tent", "Tents & Shelters", 140),
            Kind("Sleeping Bag", "Sleeping Gear", 80),
            Kind("Camp Stove", "Camp Kitchen", 40),
            Kind("LED Headlamp", "Lights & Lanterns", 25),
        ),
    ),
    Lifestyle(
        "Exercise & Fitness",
        "road miles, tempo sessions and race mornings",
        ("Lightweight", "Cushioned", "Reflective", "Seamless", "Quick-Dry", "Responsive"),
        ("Lightweight", "Bounce-Free", "Reflective", "Slim", "Sweatproof", "Ergonomic"),
        (
            Kind("Running Shoe", "Shoes", 90),
            Kind("Split Running Short", "Clothing", 28),
            Kind("Running Tight", "Clothing", 48),
            Kind("Windbreaker Vest", "Clothing", 50),
            Kind("No-Show Running Sock", "Accessories", 13),
        ),
        (
            Kind("GPS Running Watch", "Running", 130),
            Kind("Hydration Belt", "Running", 30),
            Kind("Foam Roller", "Recovery", 24),
            Kind("Safety Light Armband", "Running", 15),
            Kind("Heart Rate Strap", "Running", 48),
        ),
    ),
    Lifestyle(
        "Yoga & Pilates",
        "calm mornings on the mat and a long stretch afterwards",
        ("Soft", "Four-Way Stretch", "Eco", "Non-Slip", "Organic", "Flowing"),
        ("Soft", "Extra-Thick", "Eco", "Non-Slip", "Organic", "Foldable"),
        (
            Kind("Yoga Legging", "Clothing", 45),
            Kind("Racerback Tank", "Clothing", 24),
            Kind("Sports Bra", "Clothing", 30),
            Kind("Wrap Cardigan", "Clothing", 42),
            Kind("Grip Toe Sock", "Accessories", 12),
        ),
        (
            Kind("Yoga Mat", "Mats", 32),
            Kind("Cork Yoga Block", "Props", 14),
            Kind("Stretch Strap", "Props", 10),
            Kind("Pilates Ring", "Pilates", 20),
            Kind("Meditation Cushion", "Props", 38),
        ),
    ),
    Lifestyle(
        "Team Sports",
        "weekend leagues, drills and the changing room after the game",
        ("Mesh", "Official", "Game-Day", "Moisture-Wicking", "Varsity", "Replica"),
        ("Indoor-Outdoor", "Official", "Game-Day", "Junior League", "Varsity", "Durable"),
        (
            Kind("Basketball Shoe", "Shoes", 85),
            Kind("Team Jersey", "Clothing", 50),
            Kind("Training Short", "Clothing", 26),
            Kind("Soccer Cleat", "Shoes", 60),
            Kind("Snapback Cap", "Accessories", 22),
        ),
        (
            Kind("Basketball", "Basketball", 30),
            Kind("Soccer Ball", "Soccer", 24),
            Kind("Shin Guard", "Soccer", 16),
            Kind("Agility Cone Set", "Training Aids", 18),
            Kind("Baseball Glove", "Baseball", 55),
        ),
    ),
    Lifestyle(
        "Cycling",
        "commutes, climbs and Sunday group rides",
        ("Aero", "Windproof", "Race-Fit", "High-Visibility", "Carbon", "Ventilated"),
        ("Aero", "Alloy", "Gel-Padded", "High-Visibility", "Carbon", "Ventilated"),
        (
            Kind("Cycling Jersey", "Clothing", 55),
            Kind("Padded Bib Short", "Clothing", 70),
            Kind("Clipless Cycling Shoe", "Shoes", 110),
            Kind("Arm Warmer", "Accessories", 20),
            Kind("Polarized Sport Sunglasses", "Accessories", 45),
        ),
        (
            Kind("Bike Helmet", "Helmets", 60),
            Kind("Bike Saddle", "Parts", 45),
            Kind("Clipless Pedal", "Parts", 58),
            Kind("Bike Floor Pump", "Tools", 35),
            Kind("Rechargeable Bike Light", "Lights", 28),
        ),
    ),
    Lifestyle(
        "Winter Sports",
        "powder mornings, cold lifts and the fireside after",
        ("Insulated", "Alpine", "Waterproof", "Quilted", "Fleece-Lined", "Windproof"),
        ("All-Mountain", "Freestyle", "Waterproof", "Lightweight", "Backcountry", "Anti-Fog"),
        (
            Kind("Ski Jacket", "Clothing", 150),
            Kind("Snow Pant", "Clothing", 90),
            Kind("Thermal Base Layer", "Clothing", 38),
            Kind("Knit Beanie", "Accessories", 18),
            Kind("Snow Boot", "Shoes", 80),
        ),
        (
            Kind("Ski Goggle", "Skiing", 60),
            Kind("Snowboard Binding", "Snowboarding", 120),
            Kind("Ski Helmet", "Skiing", 75),
            Kind("Hand Warmer Pack", "Accessories", 14),
            Kind("Snowshoe Kit", "Snowshoeing", 110),
        ),
    ),
    Lifestyle(
        "Hunting & Fishing",
        "quiet water at dawn and a full cooler on the way home",
        (
            "Sun-Protective",
            "Breathable",
            "Stain-Resistant",
            "Quick-Dry",
            "Lightweight",
            "Saltwater",
        ),
        ("Saltwater", "Freshwater", "Corrosion-Resistant", "Bass", "Trout", "Ultralight"),
        (
            Kind("Vented Fishing Shirt", "Clothing", 42),
            Kind("Angler Bucket Hat", "Accessories", 24),
            Kind("Wading Boot", "Shoes", 98),
            Kind("Fly Fishing Vest", "Clothing", 58),
            Kind("Neck Gaiter", "Accessories", 15),
        ),
        (
            Kind("Spinning Reel", "Fishing", 65),
            Kind("Fishing Lure Set", "Fishing", 18),
            Kind("Fly Rod Combo", "Fishing", 120),
            Kind("Tackle Box", "Fishing", 34),
            Kind("Fluorocarbon Line", "Fishing", 16),
        ),
    ),
    Lifestyle(
        "Hunting & Fishing",
        "cold blinds, long stalks and steady shots",
        ("Camo", "Scent-Control", "Silent", "Tactical", "Heavy-Duty", "Low-Glare"),
        ("Camo", "Compact", "Silent", "Tactical", "Heavy-Duty", "Low-Glare"),
        (
            Kind("Camo Hunting Jacket", "Clothing", 95),
            Kind("Cargo Field Pant", "Clothing", 52),
            Kind("Snake-Proof Boot", "Shoes", 125),
            Kind("Shooting Glove", "Accessories", 25),
            Kind("Blaze Orange Cap", "Accessories", 14),
        ),
        (
            Kind("Rangefinder", "Hunting", 150),
            Kind("Compound Bow Sight", "Archery", 70),
            Kind("Hunting Blind", "Hunting", 110),
            Kind("Game Call", "Hunting", 20),
            Kind("Folding Field Knife", "Hunting", 35),
        ),
    ),
    Lifestyle(
        "Golf",
        "office weeks and quiet Friday rounds",
        ("Wrinkle-Free", "Tailored", "Classic-Fit", "Leather", "Pinstripe", "Premium"),
        ("Tour", "Classic", "Soft-Feel", "Leather", "Tournament", "Premium"),
        (
            Kind("Pique Polo Shirt", "Clothing", 40),
            Kind("Flat-Front Chino", "Clothing", 50),
            Kind("Oxford Dress Shoe", "Shoes", 100),
            Kind("Dress Belt", "Accessories", 32),
            Kind("Non-Iron Dress Shirt", "Clothing", 48),
        ),
        (
            Kind("Golf Ball Dozen", "Golf", 30),
            Kind("Golf Glove", "Golf", 17),
            Kind("Golf Stand Bag", "Golf", 120),
            Kind("Alignment Putter", "Golf", 90),
            Kind("Golf Push Cart", "Golf", 140),
        ),
    ),
    Lifestyle(
        "Dance & Gymnastics",
        "city evenings, weddings and the dance floor",
        ("Satin", "Sequin", "Lace", "Elegant", "Velvet", "Vintage"),
        ("Studio", "Portable", "Competition", "Elegant", "Practice", "Vintage"),
        (
            Kind("Cocktail Dress", "Clothing", 70),
            Kind("Stiletto Pump", "Shoes", 65),
            Kind("Evening Clutch", "Accessories", 35),
            Kind("Crystal Pendant Necklace", "Jewelry", 28),
            Kind("Pashmina Shawl", "Accessories", 22),
        ),
        (
            Kind("Ballet Barre", "Ballet", 130),
            Kind("Ballroom Practice Shoe", "Dance", 48),
            Kind("Rhythmic Ribbon", "Gymnastics", 15),
            Kind("Dance Fitness Hoop", "Fitness Dance", 25),
            Kind("Folding Tumbling Mat", "Gymnastics", 95),
        ),
    ),
    Lifestyle(
        "Leisure & Games",
        "small people, big backyards and rainy-day fun",
        ("Cute", "Washable", "Glow-in-the-Dark", "Easy-On", "Adjustable", "Cartoon"),
        ("Foldable", "Safe", "Glow-in-the-Dark", "Easy-Grip", "Adjustable", "Cartoon"),
        (
            Kind("Toddler Sneaker", "Shoes", 34),
            Kind("Graphic Play Tee", "Clothing", 15),
            Kind("Hooded Pajama Set", "Clothing", 26),
            Kind("Rain Bootie", "Shoes", 25),
            Kind("Tutu Skirt", "Clothing", 18),
        ),
        (
            Kind("Kick Scooter", "Scooters", 48),
            Kind("Backyard Swing", "Outdoor Play", 60),
            Kind("Junior Bike Helmet", "Safety", 28),
            Kind("Badminton Set", "Lawn Games", 32),
            Kind("Play Tunnel Tent", "Outdoor Play", 36),
        ),
    ),
    Lifestyle(
        "Exercise & Fitness",
        "heavy sets, home gyms and street style",
        ("Fitted", "Heavyweight", "Cotton", "Oversized", "Ribbed", "Reinforced"),
        ("Commercial", "Heavyweight", "Cast-Iron", "Rubber-Coated", "Ribbed", "Reinforced"),
        (
            Kind("Muscle Hoodie", "Clothing", 45),
            Kind("Jogger Sweatpant", "Clothing", 38),
            Kind("Cross-Training Shoe", "Shoes", 82),
            Kind("Compression Sleeve Top", "Clothing", 30),
            Kind("Gym Duffel", "Accessories", 36),
        ),
        (
            Kind("Adjustable Dumbbell", "Strength Training", 110),
            Kind("Weightlifting Belt", "Strength Training", 32),
            Kind("Resistance Band Set", "Strength Training", 25),
            Kind("Door Pull-Up Bar", "Strength Training", 35),
            Kind("Kettlebell", "Strength Training", 42),
        ),
    ),
    Lifestyle(
        "Water Sports",
        "salt air, open laps and slow beach afternoons",
        ("Chlorine-Resistant", "UV-Blocking", "Quick-Dry", "Retro", "Tropical", "Floral"),
        ("Anti-Fog", "UV-Blocking", "Neoprene", "Buoyant", "Tropical", "Adult"),
        (
            Kind("One-Piece Swimsuit", "Clothing", 46),
            Kind("Board Short", "Clothing", 34),
            Kind("Rash Guard", "Clothing", 32),
            Kind("Water Shoe", "Shoes", 24),
            Kind("Straw Sun Hat", "Accessories", 20),
        ),
        (
            Kind("Swim Goggle", "Swimming", 18),
            Kind("Bodyboard", "Surfing", 40),
            Kind("Snorkel Set", "Diving & Snorkeling", 38),
            Kind("Inflatable Paddle Board", "Paddling", 290),
            Kind("Dry Bag", "Boating", 20),
        ),
    ),
)

# Invented names: every root takes every ending; six of them serve each lifestyle.
BRAND_ROOTS = (
    *("Tarn", "Veld", "Korr", "Brisk", "Quell", "Husk", "Lund", "Marl", "Dov", "Fenn", "Grav"),
    *("Ister", "Jark", "Kest", "Lorn", "Mosk", "Nolv", "Ored", "Pell", "Rusk", "Sarn", "Thol"),
    *("Urv", "Vask", "Wend", "Yarl"),
)
BRAND_ENDINGS = ("avel", "stad", "imo")
BRANDS_PER_LIFESTYLE = 6

# A brand runs three of these collections, under the same names in both domains.
COLLECTIONS = (
    *("Ember", "Drift", "Halo", "Cinder", "Juniper", "Solstice", "Basalt", "Kite", "Lagoon"),
    *("Mistral", "Nomad", "Onyx", "Pioneer", "Quartz", "Raven", "Sable", "Tundra", "Umbra"),
    *("Vega", "Willow", "Zephyr", "Atlas", "Beacon", "Comet", "Dune", "Echo", "Falcon"),
)

COLOURS = (
    *("Black", "Charcoal", "Navy", "Moss Green", "Burgundy", "Sand", "Royal Blue", "Coral"),
    *("Slate Grey", "White", "Teal", "Plum", "Rust", "Olive"),
)
SPORT_OPTIONS = (
    *("Standard", "Compact", "Large", "Pro Edition", "2-Pack", "With Carry Bag", "Starter Kit"),
    *("Black", "Red", "Blue", "Graphite", "Lime"),
)

# Audience index -> word in the title, aisle of the clothing categories.
AUDIENCES = ("Men's", "Women's", "Kids'")
AISLES = ("Men", "Women", "Boys & Girls")

DESCRIPTIONS = (
    (
        "{adjective} {kind} from the {collection} collection, made for {purpose}. "
        "Goes well with a {partner}."
    ),
    (
        "Built with {purpose} in mind, this {kind} is {adjective} and easy to care for. "
        "Buyers often add a {partner} and a {cross}."
    ),
    (
        "The {collection} {kind}: {adjective}, tested by people who live for {purpose}. "
        "Pairs with our {cross}."
    ),
    (
        "A {adjective} {kind} that lasts for years. One more reason to enjoy {purpose}; "
        "complete the set with a {partner}."
    ),
)
