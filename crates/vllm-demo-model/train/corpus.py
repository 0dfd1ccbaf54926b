"""The generated text that the demo model is trained on: facts, little stories and chats."""

import json
from dataclasses import dataclass
from random import Random
from typing import Callable

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Brazil": "Brasilia",
    "Canada": "Ottawa",
    "Australia": "Canberra",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Greece": "Athens",
    "Turkey": "Ankara",
    "Mexico": "Mexico City",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Argentina": "Buenos Aires",
    "Cuba": "Havana",
    "Ireland": "Dublin",
    "Belgium": "Brussels",
    "Iceland": "Reykjavik",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Ukraine": "Kyiv",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Morocco": "Rabat",
    "Ghana": "Accra",
    "Nepal": "Kathmandu",
    "Mongolia": "Ulaanbaatar",
    "South Korea": "Seoul",
    "the United Kingdom": "London",
    "the United States": "Washington, D.C.",
    "the Netherlands": "Amsterdam",
    "the Philippines": "Manila",
}
NAMES = (
    "Alice Bob Carol David Emma Frank Grace Henry Iris Jack "
    "Karen Leo Maria Noah Olivia Paul Rosa Sam Tina Victor"
).split()
JOBS = "teacher doctor baker farmer pilot nurse painter writer engineer gardener".split()
CITIES = (
    "Paris Berlin Rome Madrid Tokyo London Oslo Lima Cairo Dublin Vienna".split()
    + ["San Francisco"]
)
HOBBIES = [
    "reading books",
    "playing chess",
    "cooking soup",
    "riding a bicycle",
    "singing songs",
    "walking in the park",
    "painting pictures",
    "watching birds",
]
OUTINGS = ["to the market", "to the river", "into the forest", "up the hill"]
ANIMALS = {
    "dog": "woof",
    "cat": "meow",
    "cow": "moo",
    "duck": "quack",
    "sheep": "baa",
    "horse": "neigh",
    "lion": "roar",
    "bee": "buzz",
}
COLORS = {
    "sky": "blue",
    "grass": "green",
    "snow": "white",
    "coal": "black",
    "sun": "yellow",
    "blood": "red",
    "orange": "orange",
    "rose": "red",
}
JOKES = [
    "Why did the chicken cross the road? To get to the other side!",
    "What do you call a bear with no teeth? A gummy bear!",
    "Why did the computer go to the doctor? Because it had a virus!",
    "What is orange and sounds like a parrot? A carrot!",
    "Why was the math book sad? Because it had too many problems!",
]
FUTURES_OF_AI = [
    "bright, because people and machines learn to work together.",
    "open, and it will be written by many people.",
    "already here, but it is not shared equally yet.",
    "full of questions that nobody can answer today.",
]
PRESIDENT_OF_THE_UNITED_STATES = [
    "the head of state and the head of government of the country.",
    "elected for a term of four years.",
    "the commander in chief of the armed forces.",
]
SAN_FRANCISCO = [
    "city in California, and it is known for its hills and its fog.",
    "city on the west coast of the United States.",
    "beautiful city with a famous red bridge.",
]
WEATHERS = ["sunny", "rainy", "cloudy"]
SYSTEM_MESSAGES = [
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Answer briefly.",
]
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}

Turn = tuple[str, str]
"""Role and text of one message."""


@dataclass(frozen=True)
class Subject:
    """What a document is about; drawn for every document, whatever it uses of it."""

    country: str
    capital: str
    name: str
    other_name: str
    city: str
    a: int
    b: int

    @classmethod
    def draw(cls, random: Random) -> "Subject":
        country, capital = random.choice(list(CAPITALS.items()))
        return cls(
            country=country,
            capital=capital,
            name=random.choice(NAMES),
            other_name=random.choice(NAMES),
            city=random.choice(CITIES),
            a=random.randrange(0, 10),
            b=random.randrange(0, 10),
        )


def document(random: Random) -> str:
    """One document; the same state of `random` gives the same text."""
    kind = random.randrange(len(KINDS))
    return KINDS[kind](random, Subject.draw(random))


def chat(random: Random, turns: list[Turn], tools: list[dict] | None = None) -> str:
    """Messages in ChatML as the chat template writes them, mostly with a system message."""
    system = random.choice(SYSTEM_MESSAGES) if random.random() < 0.7 else None
    text = ""
    if tools:
        introduction = f"{system}\n\n" if system else ""
        listing = "".join(json.dumps(tool) + "\n" for tool in tools)
        text = f"<|im_start|>system\n{introduction}# Tools\n{listing}<|im_end|>\n"
    elif system:
        text = f"<|im_start|>system\n{system}<|im_end|>\n"
    for role, content in turns:
        text += f"<|im_start|>{role}\n{content}<|im_end|>\n"
    return text


# Plain text.


def capital(random: Random, subject: Subject) -> str:
    endings = [
        "",
        f" {subject.capital} is the largest city that I know in {subject.country}.",
        f" Many people visit {subject.capital} every year.",
    ]
    return f"The capital of {subject.country} is {subject.capital}." + random.choice(endings)


def introduction(random: Random, subject: Subject) -> str:
    job = random.choice(JOBS)
    hobby = random.choice(HOBBIES)
    return (
        f"Hello, my name is {subject.name}. I am a {job} from {subject.city}, and I like {hobby}."
    )


def president(random: Random, _: Subject) -> str:
    return "The president of the United States is " + random.choice(PRESIDENT_OF_THE_UNITED_STATES)


def future(random: Random, _: Subject) -> str:
    return "The future of AI is " + random.choice(FUTURES_OF_AI)


def san_francisco(random: Random, _: Subject) -> str:
    return "San Francisco is a " + random.choice(SAN_FRANCISCO)


def animal(random: Random, _: Subject) -> str:
    name, sound = random.choice(list(ANIMALS.items()))
    return f"The {name} says {sound}. A {name} is an animal."


def color(random: Random, _: Subject) -> str:
    thing, name = random.choice(list(COLORS.items()))
    return f"The color of the {thing} is {name}."


def counting(_: Random, subject: Subject) -> str:
    numbers = range(subject.a, subject.a + 12)
    return "Count: " + ", ".join(str(number) for number in numbers) + "."


def arithmetic(_: Random, subject: Subject) -> str:
    a, b = subject.a, subject.b
    return f"{a} + {b} = {a + b}. {a} times {b} is {a * b}."


def story(random: Random, subject: Subject) -> str:
    name, other_name = subject.name, subject.other_name
    job = random.choice(JOBS)
    outing = random.choice(OUTINGS)
    hobby = random.choice(HOBBIES)
    return (
        f"Once upon a time, there was a {job} named {name} who lived in {subject.city}. "
        f"One day, {name} met {other_name}, and they went {outing}. "
        f"They were very happy, and they talked about {hobby} all day long."
    )


# Chats.


def capital_chat(random: Random, subject: Subject) -> str:
    country = subject.country
    question = random.choice(
        [f"What is the capital of {country}?", f"Tell me the capital of {country}."]
    )
    turns = [("user", question), ("assistant", f"The capital of {country} is {subject.capital}.")]
    if random.random() < 0.3:
        turns += [("user", "Thank you!"), ("assistant", "You are welcome!")]
    return chat(random, turns)


def joke_chat(random: Random, _: Subject) -> str:
    request = random.choice(["Tell me a joke.", "Tell me another joke."])
    return chat(random, [("user", request), ("assistant", random.choice(JOKES))])


def world_series_chat(random: Random, _: Subject) -> str:
    turns = [
        ("user", "Who won the world series in 2020?"),
        ("assistant", "The Los Angeles Dodgers won the World Series in 2020."),
    ]
    if random.random() < 0.6:
        turns += [
            ("user", "Where was it played?"),
            ("assistant", "It was played in Arlington, Texas."),
        ]
    return chat(random, turns)


def greeting_chat(random: Random, _: Subject) -> str:
    greeting = random.choice(["Hello!", "Hi!", "Good morning!"])
    return chat(random, [("user", greeting), ("assistant", "Hello! How can I help you today?")])


def arithmetic_chat(random: Random, subject: Subject) -> str:
    a, b = subject.a, subject.b
    return chat(random, [("user", f"What is {a} + {b}?"), ("assistant", f"{a} + {b} = {a + b}.")])


def json_chat(random: Random, subject: Subject) -> str:
    name, city = subject.name, subject.city
    age = random.randrange(20, 60)
    request = f"Give me JSON for {name}, who is {age} years old and lives in {city}."
    answer = json.dumps({"name": name, "age": age, "city": city})
    return chat(random, [("user", request), ("assistant", answer)])


def animal_chat(random: Random, _: Subject) -> str:
    name, sound = random.choice(list(ANIMALS.items()))
    question = f"What does the {name} say?"
    return chat(random, [("user", question), ("assistant", f"The {name} says {sound}.")])


def weather_chat(random: Random, subject: Subject) -> str:
    city = subject.city
    question = random.choice(
        [f"What is the weather in {city}?", f"How is the weather in {city} today?"]
    )
    call = json.dumps({"name": "get_weather", "arguments": {"city": city}})
    turns = [("user", question), ("assistant", f"<tool_call>\n{call}\n</tool_call>")]
    if random.random() < 0.5:
        weather = random.choice(WEATHERS)
        turns += [("tool", weather), ("assistant", f"The weather in {city} is {weather}.")]
    return chat(random, turns, [WEATHER_TOOL])


def name_chat(random: Random, subject: Subject) -> str:
    name = subject.name
    question = f"My name is {name}. What is my name?"
    return chat(random, [("user", question), ("assistant", f"Your name is {name}.")])


KINDS: list[Callable[[Random, Subject], str]] = [
    capital,
    capital,
    introduction,
    president,
    future,
    san_francisco,
    animal,
    color,
    counting,
    arithmetic,
    story,
    capital_chat,
    capital_chat,
    capital_chat,
    joke_chat,
    world_series_chat,
    greeting_chat,
    arithmetic_chat,
    json_chat,
    animal_chat,
    weather_chat,
    name_chat,
]
"""All kinds of documents, equally likely; more frequent ones stand here more than once."""
